"""Attention: a file for each kind, the same module in plaintext and under MPC, and a registry."""
