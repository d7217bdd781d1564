"""Families of checkpoints: a file for each model type of Hugging Face, and a registry."""
