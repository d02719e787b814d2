"""Export models to files that other runtimes compute, with a proof that they compute the same."""
