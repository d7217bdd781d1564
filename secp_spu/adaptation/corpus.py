"""Batches of token ids from lines of public text: what a checkpoint is adapted on and measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from secp_spu.adaptation.student import Texts
from secp_spu.errors import ConfigError
from secp_spu.files import NotUtf8, decode_utf8
from secp_spu.model import TransformerConfig
from secp_spu.model.hub.tokenizer import MASK_TOKENS, mask_token, open_tokenizer

TokenIds: TypeAlias = npt.NDArray[np.int32]
Numbers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
"""Token ids of a line; numbers of lines or of tokens; whether each line stands behind a prompt."""

HELD_OUT = 256
"""Lines that are never trained on."""

PROMPTED = 0.5
"""Share of an epoch's lines that stand behind a random prompt."""

LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""What texts are padded to: the next of these that the model has positions for. Each takes a compilation of its own."""


class Corpus:
    """A file of texts, one a line, as token ids: lines to train on, and lines that are held out.

    A batch has texts of about one length, and as many as make `tokens` tokens with their padding. Half of them stand
    behind as many random tokens as a soft prompt has, as tuning begins with: the adapted model has to follow its
    teacher there too.

    Args:
        path: of the file.
        tokenizer: a Hugging Face tokenizer.json.
        config: of the model that reads the texts.
        max_tokens: of a text; what is longer is cut.
        tokens: of a batch.
        prompt_tokens: random tokens in front of a text; 0 for none.
        hide_word: put the mask token where the logits of a masked-LM head are compared.
        seed: of held-out lines, batches and random tokens.
    Raises: ConfigError for a file that cannot be read or has too few different lines, and a tokenizer that will not do.

    Attributes:
        count: of different lines.
        digest: SHA-256 of the file, in hexadecimal.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Path,
        config: TransformerConfig,
        *,
        max_tokens: int,
        tokens: int,
        prompt_tokens: int,
        hide_word: bool,
        seed: int,
    ):
        text, self.digest = _read(path)
        rows = list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))
        self.count = len(rows)
        needed = HELD_OUT + max(1, tokens // LENGTHS[0])
        if self.count < needed:
            raise ConfigError(
                f"`corpus` {path} has {self.count} different lines, needed are {needed}: {HELD_OUT} to measure with, "
                "and a batch; give more, or lower `batch_tokens`"
            )
        opened, padding = open_tokenizer(tokenizer)
        self._padding = opened.token_to_id(padding)
        self._mask = _mask_id(opened, tokenizer) if hide_word else None
        order = np.random.default_rng(seed).permutation(self.count)
        self._ids, self._words = _tokenized(opened, [rows[i] for i in order], max_tokens)
        if not all(map(len, self._ids)):
            raise ConfigError(f"`corpus` {path} has lines that {tokenizer} makes no token of: leave them out")
        if not any(map(len, self._words)):
            raise ConfigError(
                f"`max_tokens` {max_tokens} leaves no word of any line of `corpus` {path}, only marks of beginning and "
                "end: raise it"
            )
        largest = max(self._padding, self._mask or 0, *(int(row.max()) for row in self._ids))
        if largest >= config.vocab_size:
            raise ConfigError(f"{tokenizer} gives token {largest}, the model has {config.vocab_size}: take its own")
        self._tokens, self._prompt, self._seed, self._vocabulary = tokens, prompt_tokens, seed, config.vocab_size
        self._longest = config.max_positions - config.position_offset
        self._epoch = lru_cache(2)(self._make_epoch)
        self._size = cache(lambda epoch: len(self._epoch(epoch)))

    def batch(self, number: int) -> Texts:
        """The batch of this number, which follows from it and the seed."""
        epoch = 0
        while number >= (size := self._size(epoch)):
            number, epoch = number - size, epoch + 1
        rng = np.random.default_rng((self._seed, epoch, number))
        return self._texts(*self._epoch(epoch)[number], rng)

    def held_out(self, *, prompted: bool = False) -> list[Texts]:
        """The lines that are never trained on, in batches of one length each."""
        rows = np.arange(HELD_OUT)
        rng = np.random.default_rng((self._seed, int(prompted)))
        return [self._texts(*batch, rng) for batch in self._split(rows, np.full(HELD_OUT, prompted), whole=False)]

    def _make_epoch(self, number: int) -> list[tuple[Numbers, Flags, int]]:
        """All batches that the lines make, in random order: rows, which stand behind a prompt, and their length."""
        rng = np.random.default_rng((self._seed, number))
        rows = HELD_OUT + rng.permutation(self.count - HELD_OUT)
        prompted = rng.random(len(rows)) < (PROMPTED if self._prompt else 0)
        batches = self._split(rows, prompted, whole=True)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _split(self, rows: Numbers, prompted: Flags, *, whole: bool) -> list[tuple[Numbers, Flags, int]]:
        """Batches of the rows, by length; those that are not full only if asked for, and where there are no others."""
        sizes = np.array([len(self._ids[row]) for row in rows]) + self._prompt * prompted
        places = np.searchsorted(LENGTHS, sizes)
        batches = []
        for place in np.unique(places):
            of_length = np.flatnonzero(places == place)
            length = min(LENGTHS[place], self._longest) if place < len(LENGTHS) else int(sizes[of_length].max())
            most = max(1, self._tokens // length)
            end = len(of_length) // most * most if whole and len(of_length) >= most else len(of_length)
            for start in range(0, end, most):
                some = of_length[start : min(start + most, end)]
                batches.append((rows[some], prompted[some], length))
        return batches

    def _texts(self, rows: Numbers, prompted: Flags, length: int, rng: np.random.Generator) -> Texts:
        ids = np.full((len(rows), length), self._padding, np.int32)
        mask, place = np.zeros((2, len(rows), length), np.float32)
        for i, row in enumerate(rows):
            prompt = rng.integers(0, self._vocabulary, self._prompt if prompted[i] else 0)
            text = np.concatenate([prompt, self._ids[row]])
            words = self._words[row]
            word = len(prompt) + rng.choice(words if len(words) else len(self._ids[row]))
            ids[i, : len(text)], mask[i, : len(text)], place[i, word] = text, 1, 1
            if self._mask is not None:
                ids[i, word] = self._mask
        return Texts(jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(place))


def _read(path: Path) -> tuple[str, str]:
    """The text, and the digest of its bytes."""
    try:
        content = path.read_bytes()
        return decode_utf8(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"`corpus` {path} cannot be read ({error.strerror}): give a file with a text a line"
        ) from error
    except NotUtf8 as error:
        raise ConfigError(f"`corpus` {path} is {error}") from error


def _mask_id(tokenizer: Tokenizer, path: Path) -> int:
    token = mask_token(tokenizer)
    if token is None:
        raise ConfigError(
            f"{path} has no mask token, which the model's masked-LM head is for: known are {', '.join(MASK_TOKENS)}"
        )
    number: int = tokenizer.token_to_id(token)
    return number


def _tokenized(tokenizer: Tokenizer, lines: Sequence[str], max_tokens: int) -> tuple[list[TokenIds], list[Numbers]]:
    """Token ids of each line, and which of them are a word's, not a mark of beginning or end; some have no word."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    encoded = tokenizer.encode_batch(list(lines))
    ids = [np.array(line.ids, np.int32) for line in encoded]
    words = [np.flatnonzero(1 - np.array(line.special_tokens_mask)) for line in encoded]
    return ids, words
