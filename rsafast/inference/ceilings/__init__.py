"""Noise ceilings, each definition by its name."""
