"""Runs, sessions, repeats and noise of the data; scores of subjects and of their mean."""
