"""Permutation tests on RDMs."""
