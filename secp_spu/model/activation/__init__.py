"""Activations: a file for each, and a registry."""
