"""Transformer encoders: the same code in plaintext and under MPC."""
