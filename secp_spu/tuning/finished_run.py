"""The folder of a finished run in, its configuration or its prompt as a PEFT adapter out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secp_spu.config import Config, ConfigError, load_config
from secp_spu.model import EncoderConfig, load_embeddings
from secp_spu.tuning.initial_prompt import fitting
from secp_spu.tuning.peft import save_peft
from secp_spu.tuning.prompt import FILE_NAME, load_prompt
from secp_spu.tuning.record import FILE_NAME as CHECKPOINT

CONFIG_NAME = "config.yaml"
"""What a run's folder calls its configuration."""


def load_run(folder: Path, settings: Sequence[str] = ()) -> Config:
    """The configuration of a run, for what is to be done with its prompt; the texts it was tuned on may be gone.

    Args:
        folder: of the run.
        settings: `KEY=VALUE`, which win over it.
    Raises: ConfigError for a folder without a tuned prompt, and as `load_config` does.
    """
    if not (folder / FILE_NAME).exists():
        if (folder / CHECKPOINT).exists():
            raise ConfigError(f"{folder} holds a run that has not finished: go on with secp-spu tune --resume")
        raise ConfigError(f"{folder} holds no tuned prompt: give the folder that secp-spu tune wrote")
    if not (folder / CONFIG_NAME).exists():
        raise ConfigError(f"{folder} has no {CONFIG_NAME}: put the configuration there that its prompt was tuned with")
    return load_config(folder / CONFIG_NAME, settings, needs={"model_owner"})


def export_peft(run: Path, out: Path) -> EncoderConfig:
    """Write a run's tuned prompt as a PEFT adapter; returns the config of the encoder that it is for.

    Args:
        run: folder of the run. The table of word embeddings must be in its model's folder.
        out: folder to write, see `save_peft`.
    Raises: ConfigError; CheckpointError for a model folder without the table.
    """
    config = load_run(run)
    encoder, tables = load_embeddings(config.model.folder)
    prompt = fitting(load_prompt(run / FILE_NAME), config, encoder, run)
    save_peft(out, prompt.vectors(tables["word"]["embedding"]), encoder)
    return encoder
