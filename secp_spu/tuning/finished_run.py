"""Reads the folder of a finished run: its configuration and its prompt, also as a PEFT adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError
from secp_spu.model import TransformerConfig, load_embeddings
from secp_spu.tuning.contents import contents_of_model, place_of
from secp_spu.tuning.differences import CONFIG_NAME, config_of_run, difference_for_prompt
from secp_spu.tuning.peft import save_peft
from secp_spu.tuning.prompt import FILE_NAME, SoftPrompt, load_prompt
from secp_spu.tuning.record import FILE_NAME as CHECKPOINT
from secp_spu.tuning.record import RunRecord


def load_run(folder: Path, settings: Sequence[str] = (), *, party: str | None = None) -> Config:
    """The configuration of a run, for what is to be done with its prompt; the texts it was tuned on may be gone.

    Args:
        folder: of the run.
        settings: `KEY=VALUE`, which win over it.
        party: of a cluster, the one that reads, who has the run: its data owner.
    Raises: ConfigError for a folder without a tuned prompt, for settings that the prompt was not tuned for, and as
        `load_config` does.
    """
    _refuse_unfinished(folder)
    if not (folder / CONFIG_NAME).exists():
        raise ConfigError(f"{folder} has no {CONFIG_NAME}: put the configuration there that its prompt was tuned with")
    config = load_config(folder / CONFIG_NAME, settings, party=party, needs={"model_owner"})
    if settings:
        require_tuned_for(folder, config)
    return config


def require_tuned_for(folder: Path, config: Config) -> None:
    """Refuse to use a run's prompt with another model or task than it was tuned for.

    The model's files are compared as far as they are there: a data owner in a cluster has no weights.

    Args:
        folder: of the run.
        config: of what is to be done with its prompt.
    Raises: ConfigError naming the key, the run's value and the other one; CheckpointError.
    """
    before = config_of_run(folder)
    if before is None:
        return
    if difference := difference_for_prompt(before, config):
        raise ConfigError(
            f"{difference}: the prompt in {folder} was tuned for the former, so leave that as it was, or tune another"
        )
    recorded, model = _contents_of_run(folder), config.model.folder
    contents = contents_of_model(model) if recorded else {}
    for name in sorted(recorded.keys() & contents.keys()):
        if recorded[name] != contents[name]:
            raise ConfigError(
                f"{place_of(name)}: {model} does not hold the model that the prompt in {folder} was tuned for, which "
                f"was in {before.model.folder}: give that one, or tune another prompt"
            )


def _contents_of_run(folder: Path) -> dict[str, str]:
    """Fingerprints of what a run was made of; none without a record of this version."""
    try:
        return RunRecord.load(folder).contents
    except ConfigError:
        return {}


def _refuse_unfinished(folder: Path) -> None:
    if not (folder / FILE_NAME).exists():
        if (folder / CHECKPOINT).exists():
            raise ConfigError(f"{folder} holds a run that has not finished: go on with `tune(resume=True)`")
        raise ConfigError(f"{folder} holds no tuned prompt: give the folder that secp-spu tune wrote")


def load_tuned_prompt(folder: Path, config: Config, transformer: TransformerConfig) -> SoftPrompt:
    """The prompt of a run.

    Args:
        folder: of the run.
        config: of what is to be done with it.
        transformer: config of the transformer that it is to be for.
    Raises: ConfigError for a folder without a tuned prompt, or for a prompt that does not fit.
    """
    _refuse_unfinished(folder)
    return fitting(load_prompt(folder / FILE_NAME), config, transformer, folder)


def fitting(prompt: SoftPrompt, config: Config, transformer: TransformerConfig, where: Path) -> SoftPrompt:
    """The prompt itself, if it is one for this configuration and model.

    Args:
        prompt: as it was read.
        config: of the run.
        transformer: config of the transformer.
        where: it was read, for messages.
    Raises: ConfigError.
    """
    shape, wanted = prompt.shift.shape, (config.tuning.prompt_tokens, transformer.width)
    if shape != wanted:
        remedy = f"set tuning.prompt_tokens={shape[0]}" if shape[1:] == wanted[1:] else "take one that was made for it"
        raise ConfigError(
            f"{where} holds a prompt of shape {_times(shape)}, but tuning.prompt_tokens and the model's width make "
            f"{_times(wanted)}: {remedy}"
        )
    if prompt.of_words and not set(prompt.start.tolist()) <= set(range(transformer.vocab_size)):
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


def export_peft(run: Path, out: Path) -> TransformerConfig:
    """Write a run's tuned prompt as a PEFT adapter; returns the config of the transformer that it is for.

    Args:
        run: folder of the run. The table of word embeddings must be in its model's folder.
        out: folder to write, see `save_peft`.
    Raises: ConfigError; CheckpointError for a model folder without the table.
    """
    config = load_run(run)
    transformer, tables = load_embeddings(config.model.folder)
    prompt = load_tuned_prompt(run, config, transformer)
    save_peft(out, prompt.vectors(tables["word"]["embedding"]), transformer)
    return transformer
