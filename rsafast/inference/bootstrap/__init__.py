"""Bootstraps over stimuli, subjects and seeds, with corrected standard errors."""
