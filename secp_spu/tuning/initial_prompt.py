"""Makes p0, the soft prompt that tuning starts from (z = 0), as `tuning.initial_prompt` says."""

from __future__ import annotations

import numpy as np

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.model import TransformerConfig
from secp_spu.trees import Ints
from secp_spu.tuning.finished_run import fitting, load_tuned_prompt
from secp_spu.tuning.peft import load_peft
from secp_spu.tuning.prompt import SoftPrompt
from secp_spu.tuning.task import TaskTokenizer

KEY = "tuning.initial_prompt"


def prompt_generator(seed: int) -> np.random.Generator:
    """What a run of this seed draws its initial prompt from, and then the space around it."""
    return np.random.default_rng([seed, 1])


def make_initial_prompt(
    config: Config, transformer: TransformerConfig, tokenizer: TaskTokenizer, *, rng: np.random.Generator
) -> SoftPrompt:
    """The prompt that the configuration asks for.

    Args:
        config: of the run.
        transformer: config of the transformer.
        tokenizer: of the model.
        rng: draws words, also where they are not wanted, so that what is drawn after them stays the same.
    Raises: ConfigError for a text or a prompt that does not fit the model or `tuning.prompt_tokens`.
    """
    count, wanted = config.tuning.prompt_tokens, config.tuning.initial_prompt
    tokens: Ints = rng.integers(transformer.vocab_size, size=count)
    if wanted.words is not None:
        tokens = _repeated(tokenizer.word_ids(wanted.words), count)
    if wanted.run is not None:
        return load_tuned_prompt(wanted.run, config, transformer)
    if wanted.peft is not None:
        return fitting(load_peft(wanted.peft), config, transformer, wanted.peft)
    return SoftPrompt.of_tokens(tokens, transformer.width)


def _repeated(ids: list[int], count: int) -> Ints:
    """A text's tokens, again and again until there are enough."""
    if not ids:
        raise ConfigError(f"{KEY}.words holds no word: write some, or leave it out for random ones")
    if len(ids) > count:
        raise ConfigError(
            f"{KEY}.words has {len(ids)} tokens, but tuning.prompt_tokens is {count}: shorten the text, or raise it"
        )
    return np.resize(np.array(ids), count)
