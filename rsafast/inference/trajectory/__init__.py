"""Alignment over training."""
