"""Exact tests of a few units, effect sizes, corrections for several tests."""
