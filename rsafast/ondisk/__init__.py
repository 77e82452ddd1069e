"""RDMs larger than memory: computed tile by tile into a file, ranked and read from it."""
