"""RDM models with free parameters, and their cross-validation."""
