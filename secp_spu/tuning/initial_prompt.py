"""The configuration's `tuning.initial_prompt` in, p0 out: the soft prompt that tuning starts from, at z = 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secp_spu.config import Config, ConfigError
from secp_spu.model import EncoderConfig
from secp_spu.tuning.peft import load_peft
from secp_spu.tuning.prompt import FILE_NAME, SoftPrompt, load_prompt
from secp_spu.tuning.task import TaskTokenizer

KEY = "tuning.initial_prompt"


def make_initial_prompt(
    config: Config, encoder: EncoderConfig, tokenizer: TaskTokenizer, *, rng: np.random.Generator
) -> SoftPrompt:
    """The prompt that the configuration asks for.

    Args:
        config: of the run.
        encoder: config of the encoder.
        tokenizer: of the model.
        rng: draws words, also where they are not wanted, so that what is drawn after them stays the same.
    Raises: ConfigError for a text or a prompt that does not fit the model or `tuning.prompt_tokens`.
    """
    count, wanted = config.tuning.prompt_tokens, config.tuning.initial_prompt
    tokens = rng.integers(encoder.vocab_size, size=count)
    if wanted.words is not None:
        tokens = _repeated(tokenizer.word_ids(wanted.words), count)
    if wanted.run is not None:
        return fitting(load_prompt(wanted.run / FILE_NAME), config, encoder, wanted.run)
    if wanted.peft is not None:
        return fitting(load_peft(wanted.peft), config, encoder, wanted.peft)
    return SoftPrompt.of_tokens(tokens, encoder.width)


def _repeated(ids: list[int], count: int) -> np.ndarray:
    """A text's tokens, again and again until there are enough."""
    if not ids:
        raise ConfigError(f"{KEY}.words holds no word: write some, or leave it out for random ones")
    if len(ids) > count:
        raise ConfigError(
            f"{KEY}.words has {len(ids)} tokens, but tuning.prompt_tokens is {count}: shorten the text, or raise it"
        )
    return np.resize(np.array(ids), count)


def fitting(prompt: SoftPrompt, config: Config, encoder: EncoderConfig, where: Path) -> SoftPrompt:
    """The prompt itself, if it is one for this configuration and model.

    Args:
        prompt: as it was read.
        config: of the run.
        encoder: config of the encoder.
        where: it was read, for messages.
    Raises: ConfigError.
    """
    shape, wanted = prompt.shift.shape, (config.tuning.prompt_tokens, encoder.width)
    if shape != wanted or prompt.start.shape not in (wanted, wanted[:1]):
        mend = f"set tuning.prompt_tokens={shape[0]}" if shape[1:] == wanted[1:] else "take one that was made for it"
        raise ConfigError(
            f"{where} holds a prompt of shape {_times(shape)}, but tuning.prompt_tokens and the model's width make "
            f"{_times(wanted)}: {mend}"
        )
    if prompt.of_words and not set(prompt.start.tolist()) <= set(range(encoder.vocab_size)):
        raise ConfigError(f"{where} holds tokens that are none of the model's: it is for another model")
    if not np.isfinite(prompt.shift).all() or not np.isfinite(prompt.start).all():
        raise ConfigError(f"{where} holds a prompt with values that are not finite: make it anew")
    if not prompt.of_words and config.model.embedding == "private":
        raise ConfigError(
            f"{where} holds vectors, but with model.embedding: private the data owner starts from tokens, since it has "
            "no table: take a prompt of a run with model.embedding: private, or words"
        )
    return prompt


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
