"""Attention: a file for each kind, each the same module in plaintext and under MPC."""
