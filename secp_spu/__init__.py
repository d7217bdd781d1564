"""Private soft-prompt tuning of transformers on SecretFlow SPU, with forward passes only."""
