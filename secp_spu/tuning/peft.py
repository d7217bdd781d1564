"""Soft prompts as folders that Hugging Face PEFT loads as PROMPT_TUNING."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secp_spu.errors import ConfigError
from secp_spu.files import make_private_folder, write_whole
from secp_spu.model import TransformerConfig
from secp_spu.trees import Floats
from secp_spu.tuning.prompt import SoftPrompt

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
TENSOR = "prompt_embeddings"


def save_peft(folder: Path, vectors: Floats, transformer: TransformerConfig) -> None:
    """Write an adapter, for its owner's eyes alone.

    PEFT puts the vectors before the word embeddings of a text, and the model adds positions to both, as here. The task
    type is CAUSAL_LM for a decoder, with which PEFT also generates text; for an encoder FEATURE_EXTRACTION whatever the
    head, for that alone hands a masked-LM head's logits through as they are.

    Args:
        folder: made if it is not there; left empty if it cannot be written.
        vectors: the prompt in the space of word embeddings, float32 [prompt_tokens, width].
        transformer: config of the transformer.
    Raises: ConfigError for a folder that holds something, or that cannot be written.
    """
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM" if transformer.causal else "FEATURE_EXTRACTION",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "num_virtual_tokens": vectors.shape[0],
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": transformer.heads,
        "num_layers": transformer.layers,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None,
    }
    _make_empty(folder)
    try:
        weights = save({TENSOR: np.ascontiguousarray(vectors)}, metadata={"format": "pt"})
        write_whole(folder / WEIGHTS_NAME, weights, secret=True)
        write_whole(folder / CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode(), secret=True)
    except (OSError, SafetensorError) as error:
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            (folder / name).unlink(missing_ok=True)
        raise ConfigError(f"{folder} cannot be written: {error}") from error


def _make_empty(folder: Path) -> None:
    """Make a folder; what is there already is left alone, and refused unless it is an empty one."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is {'not empty' if folder.is_dir() else 'a file'}: choose another folder")
        make_private_folder(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error


def load_peft(folder: Path) -> SoftPrompt:
    """Read an adapter that PEFT or `save_peft` wrote.

    Raises: ConfigError if a file is missing or damaged, or for an adapter of another kind.
    """
    _check_kind(folder / CONFIG_NAME)
    path = folder / WEIGHTS_NAME
    try:
        with safe_open(path, "np") as file:
            vectors = file.get_tensor(TENSOR)
    except (OSError, SafetensorError, TypeError) as error:  # numpy has no bfloat16: a TypeError
        raise ConfigError(
            f"{path} holds no tensor {TENSOR} of float32 or float16 ({error}): save the adapter with safetensors"
        ) from error
    return SoftPrompt.of_vectors(vectors.astype(np.float32))


def _check_kind(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read, so that its folder is no PEFT adapter: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "PROMPT_TUNING":
        raise ConfigError(f"{path}: peft_type is {kind!r}, but only an adapter of PROMPT_TUNING is a soft prompt")
    if config.get("num_transformer_submodules") not in (None, 1):
        raise ConfigError(f"{path}: the adapter is for encoder and decoder, but the models here are one or the other")
