"""One module a kernel, each with its ``ROWS``."""
