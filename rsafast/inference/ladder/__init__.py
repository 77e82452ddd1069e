"""Every test of one difference of two rules, from the one that generalises least to the most."""
