"""Whole studies from one file: train, extract, compare, infer, and keep what has not changed."""
