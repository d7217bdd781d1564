"""Named shapes of encoders, and random weights and texts in these shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from secp_spu.model import Embeddings, EncoderLayer, LabelWordHead, TransformerConfig, fold_head, fold_layer
from secp_spu.trees import Floats, Tree

LABELS = 2

RANDOM_LENGTH = 0.8
"""Of random queries and keys in front of learned features: mean kernels stay positive through 24 random layers, as
adaptation sees to; at a length of 1.3 some fall below zero from the fifth layer on, and small errors grow."""

PROMPT_TOKENS = 50
"""Vectors of a soft prompt (BBT's number); in sequences of less than four times that length, a quarter of them."""


def _encoder(vocab_size: int, width: int, layers: int, heads: int, intermediate: int, offset: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        intermediate=intermediate,
        max_positions=512 + offset,
        position_offset=offset,
        type_vocab_size=1,
        layer_norm_epsilon=1e-5,
    )


SHAPES: dict[str, TransformerConfig] = {
    "tiny": _encoder(257, 128, 2, 2, 128, 2),
    "minilm": _encoder(30522, 384, 6, 12, 1536, 0),
    "roberta-base": _encoder(50265, 768, 12, 12, 3072, 2),
    "roberta-large": _encoder(50265, 1024, 24, 16, 4096, 2),
    "bert-base": _encoder(30522, 768, 12, 12, 3072, 0),
    "bert-large": _encoder(30522, 1024, 24, 16, 4096, 0),
}
"""By name; attention and activation are a measurement's own choice."""


@dataclass(frozen=True)
class RandomModel:
    """A model owner's weights at random, drawn when asked for; queries and keys of learned features are short.

    Attributes:
        config: of the encoder.
    """

    config: TransformerConfig

    def layer(self, number: int) -> dict[str, Tree]:
        """ "params" and "public" of a layer."""
        inputs = jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1))
        variables = jax.device_get(EncoderLayer(self.config, number).init(jax.random.key(number), *inputs))
        params = dict(variables["params"])
        if self.config.attention == "fourier":
            frequencies = params["attention"]["frequencies"]
            params["attention"] = {"frequencies": frequencies * RANDOM_LENGTH / math.sqrt(self.config.head_dim)}
        return {"params": params, "public": variables.get("public", {})}

    def folded_layer(self, number: int) -> dict[str, Tree]:
        """The same, folded; all norms have gain one and shift zero."""
        variables = self.layer(number)
        before = variables["params"]["output_norm"] if number else None
        return {**variables, "params": fold_layer(variables["params"], before, self.config)}

    def folded_head(self) -> Tree:
        """Params of the label-word head, folded."""
        return fold_head(self.head(), self.layer(0)["params"]["output_norm"])

    def head(self) -> Tree:
        """Params of the label-word head."""
        inputs = jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1))
        return jax.device_get(LabelWordHead(self.config, LABELS).init(jax.random.key(1000), *inputs)["params"])

    def embeddings(self) -> Tree:
        """Params of the embeddings."""
        hidden = jnp.zeros((1, 1, self.config.width))
        shapes = jax.eval_shape(Embeddings(self.config).init, jax.random.key(0), hidden)["params"]
        rng = np.random.default_rng(2000)

        def draw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> Floats:
            drawn = rng.standard_normal(leaf.shape, np.float32) / 50
            return drawn + 1 if path[-1].key == "scale" else drawn

        params = jax.tree_util.tree_map_with_path(draw, shapes)
        return params | {"word": {"embedding": self.words()}}

    def words(self) -> Floats:
        """The table of word embeddings [vocabulary, width]."""
        rng = np.random.default_rng(3000)
        return rng.standard_normal((self.config.vocab_size, self.config.width), np.float32) / 50


@dataclass(frozen=True)
class RandomTexts:
    """A data owner's prompt and texts at random, all of full length.

    Attributes:
        config: of the encoder.
        batch: texts.
        seq_len: tokens of prompt and text together.
    """

    config: TransformerConfig
    batch: int
    seq_len: int

    @property
    def prompt_tokens(self) -> int:
        """How many vectors of `seq_len` are the prompt's."""
        return min(PROMPT_TOKENS, self.seq_len // 4)

    def token_ids(self, tokens: int, rows: int) -> npt.NDArray[np.int64]:
        """Tokens with ids below `rows` [batch, tokens]."""
        return np.random.default_rng(1).integers(rows, size=(self.batch, tokens))

    def embedded(self, tokens: int) -> Floats:
        """What a layer norm leaves of word embeddings [batch, tokens, width]."""
        size = (self.batch, tokens, self.config.width)
        return np.random.default_rng(2).standard_normal(size, np.float32)

    def prompts(self, candidates: int = 1) -> Floats:
        """What a layer norm leaves of soft prompts [candidates, prompt_tokens, width]."""
        size = (candidates, self.prompt_tokens, self.config.width)
        return np.random.default_rng(3).standard_normal(size, np.float32)

    def padding_mask(self) -> Floats:
        """Ones [batch, seq_len]."""
        return np.ones((self.batch, self.seq_len), np.float32)

    def readout(self) -> Floats:
        """One at the last token [batch, seq_len]."""
        rows = np.zeros((self.batch, self.seq_len), np.float32)
        rows[:, -1] = 1
        return rows

    def labels(self) -> Floats:
        """One-hot [batch, labels]."""
        one_hot: Floats = np.eye(LABELS, dtype=np.float32)[np.arange(self.batch) % LABELS]
        return one_hot
