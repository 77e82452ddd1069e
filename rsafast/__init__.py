"""rsafast."""
