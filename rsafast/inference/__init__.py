"""Inference for whole studies: bootstraps, exact tests, ceilings, decompositions, trajectories."""
