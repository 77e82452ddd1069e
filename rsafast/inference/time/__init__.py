"""Time-resolved RSA: RDM movies and clusters."""
