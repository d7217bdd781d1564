"""Tokenizers of Hugging Face folders, and their mask and padding tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from secp_spu.errors import ConfigError

MASK_TOKENS = ("<mask>", "[MASK]")


PADDING_TOKENS = ("<pad>", "[PAD]", "<|endoftext|>")
"""GPT-2 has none of its own, and sees none of what stands behind a text."""


def open_tokenizer(path: Path) -> tuple[Tokenizer, str]:
    """A Hugging Face tokenizer.json, and its padding token.

    Raises: ConfigError if the file is missing, is no tokenizer, or has no padding token.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ConfigError(f"{path} is no tokenizer: {error}") from error
    padding = _known_token(tokenizer, PADDING_TOKENS)
    if padding is None:
        raise ConfigError(f"{path} has no padding token: known are {', '.join(PADDING_TOKENS)}")
    return tokenizer, padding


def mask_token(tokenizer: Tokenizer) -> str | None:
    """The token that stands for a hidden word, if the tokenizer has one."""
    return _known_token(tokenizer, MASK_TOKENS)


def _known_token(tokenizer: Tokenizer, names: Sequence[str]) -> str | None:
    return next((name for name in names if tokenizer.token_to_id(name) is not None), None)
