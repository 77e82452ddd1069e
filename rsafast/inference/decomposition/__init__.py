"""Several models at once: regression of RDMs, variance partitioning."""
