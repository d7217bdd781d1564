"""Hugging Face folders: reads and writes configurations, tensors and tokenizers as other programs have them."""
