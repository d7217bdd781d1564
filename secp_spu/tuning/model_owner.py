"""The model owner: its checkpoint in, the parts that are secret-shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secp_spu.config import Config, ConfigError
from secp_spu.model import ActivationKind, EncoderConfig, load_checkpoint


class ModelOwner:
    """What only the model owner may see, with the methods that the driver calls by name.

    Args:
        config: of the run.
    Raises: CheckpointError for a folder that cannot be read; ConfigError if it has no masked-LM head but needs one.
    """

    def __init__(self, config: Config):
        self._checkpoint = load_checkpoint(config.model.folder)
        self._gelu = config.model.gelu
        if config.model.head == "label_words" and self._checkpoint.head is None:
            raise ConfigError(f"{config.model.folder} has no masked-LM head: set model.head: label_embeddings")

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape and choices; everybody may know them."""
        config = self._checkpoint.config
        if self._gelu == "exact":
            return config
        return replace(config, activation=_tanh(config.activation), head_activation=_tanh(config.head_activation))

    def layer(self, number: int) -> Any:
        """A layer's weights, as a pytree of arrays."""
        return self._checkpoint.layer(number)["params"]

    def layer_public(self, number: int) -> Any:
        """What everybody may know of a layer: its random frequencies."""
        return self._checkpoint.layer(number).get("public", {})

    def label_word_head(self, token_ids: Sequence[int]) -> Any:
        """The masked-LM head's weights, with the decoder columns of the given tokens alone."""
        return self._checkpoint.label_word_head(token_ids)

    def word_rows(self, rows: range) -> np.ndarray:
        """Word embeddings of rows of the vocabulary [rows, width]."""
        return self._embeddings["word"]["embedding"][rows.start : rows.stop]

    def other_tables(self) -> dict[str, Any]:
        """What `PrivateEmbedding` takes besides the word embeddings."""
        tables = self._embeddings
        deviation = np.array([tables["word"]["embedding"].std()], np.float32)
        places = tables["position"]["embedding"] + tables["type"]["embedding"][0]
        return {"places": places, "norm": tables["norm"], "deviation": deviation}

    @property
    def _embeddings(self) -> Any:
        return self._checkpoint.variables["params"]["embeddings"]


def _tanh(kind: ActivationKind) -> ActivationKind:
    return "gelu_tanh" if kind == "gelu" else kind
