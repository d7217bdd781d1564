"""Gradient-free optimizers: a file for each, and the registry that the configuration takes their names from."""
