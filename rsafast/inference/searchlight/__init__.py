"""Searchlight RSA: a model against the neighbourhood of every voxel."""
