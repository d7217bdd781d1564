"""The model owner: reads its checkpoint and hands out the parts that are secret-shared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from secp_spu.config import Config, ModelSection
from secp_spu.errors import ConfigError
from secp_spu.inference import encoded_words, other_tables
from secp_spu.model import (
    Checkpoint,
    TransformerConfig,
    fold_head,
    fold_layer,
    label_embedding_limit,
    label_word_limit,
    load_checkpoint,
    steepness_of,
)
from secp_spu.protocol.sharing import RingArray
from secp_spu.trees import Floats, Tree
from secp_spu.tuning.directions import DirectionMasks


class ModelOwner:
    """What only the model owner may see, with the methods that the driver calls by name.

    Args:
        config: of the run.
    Raises: CheckpointError for a folder that cannot be read, or that was adapted to another activation; ConfigError if
        it has no language-model head but needs one, or is a decoder and is to embed labels.
    """

    def __init__(self, config: Config):
        self._checkpoint = _load(config.model)
        causal, by_words = self._checkpoint.config.causal, config.model.head == "label_words"
        self._by_words = by_words
        # What passes the embeddings' norm under MPC comes without its gain and shift.
        self._embedding_norm = self._embeddings["norm"] if config.folds_embeddings and not causal else None
        if causal and not by_words:
            raise ConfigError(f"{config.model.folder} is a decoder: set model.head: label_words")
        if by_words and self._checkpoint.head is None:
            raise ConfigError(f"{config.model.folder} has no masked-LM head: set model.head: label_embeddings")

    def transformer_config(self) -> TransformerConfig:
        """The transformer's shape and choices; everybody may know them."""
        return self._checkpoint.config

    def layer(self, number: int) -> Tree:
        """A layer's weights, folded, as a pytree of arrays."""
        before = self._norm(number - 1) if number else self._embedding_norm
        return fold_layer(self._checkpoint.layer(number)["params"], before, self._checkpoint.config)

    def _norm(self, number: int) -> Tree:
        """Gain and shift of the norm that a layer ends with; a decoder's ends with none."""
        return self._checkpoint.layer(number)["params"].get("output_norm")

    def layer_public(self, number: int) -> Tree:
        """What everybody may know of a layer: its random frequencies."""
        return self._checkpoint.layer(number).get("public", {})

    def label_word_head(self, token_ids: Sequence[int]) -> Tree:
        """The masked-LM head's weights, folded, with the decoder columns of the given tokens alone."""
        return fold_head(self._checkpoint.label_word_head(token_ids), self.last_norm())

    def logit_limit(self, token_ids: Sequence[int]) -> float:
        """The size that no logit exceeds, a power of two; everybody may know it.

        With the label-word head it says how long the largest label word's column is, times the norm's gain, to a factor
        of two. The label-embedding head's is the same for every model.

        Args:
            token_ids: of the label words; none for the label-embedding head.
        """
        if not token_ids:
            return label_embedding_limit()
        return label_word_limit(self._checkpoint.label_word_head(token_ids))

    def last_norm(self) -> Tree:
        """What the label-embedding head has of weights: gain and shift of the last layer's norm."""
        return self._norm(self._checkpoint.config.layers - 1)

    def word_rows(self, rows: range) -> Floats:
        """Word embeddings of rows of the vocabulary [rows, width], for `PrivateEmbedding`."""
        return encoded_words(self._embeddings, rows)

    def other_tables(self) -> dict[str, Floats]:
        """What `PrivateEmbedding` takes besides the word embeddings."""
        return other_tables(self._embeddings)

    def steepness(self, prompt_tokens: int, text_tokens: int) -> float:
        """How large the derivative of a logit by a soft prompt is, as `steepness_of` says; everybody may know it."""
        return steepness_of(self._checkpoint, prompt_tokens, text_tokens, by_words=self._by_words)

    def new_nonce(self) -> str:
        """A fresh nonce for `direction_masks`; everybody may know it."""
        return self._masks.new_nonce()

    def direction_masks(self, nonces: Sequence[str], length: int) -> RingArray:
        """The masks of these nonces, see `DirectionMasks.masks`."""
        return self._masks.masks(nonces, length)

    @cached_property
    def _masks(self) -> DirectionMasks:
        return DirectionMasks([self._checkpoint.variables["params"], self._checkpoint.head])

    @property
    def _embeddings(self) -> Tree:
        return self._checkpoint.variables["params"]["embeddings"]


def _load(wanted: ModelSection) -> Checkpoint:
    """The checkpoint with the activation that the configuration asks for."""
    checkpoint = load_checkpoint(wanted.folder)
    if wanted.activation == "checkpoint":
        return checkpoint
    return checkpoint.with_activation(
        wanted.activation,
        limit=wanted.activation_range,
        terms=wanted.activation_terms,
        force=wanted.force_activation,
    )
