"""How steep a model is: the size of the derivatives of its logits by a soft prompt, measured by who has it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.head import SIMILARITY_SCALE, LabelWordHead, PooledEmbedding
from secp_spu.model.hub.checkpoint import Checkpoint
from secp_spu.model.transformer import Transformer
from secp_spu.trees import Floats

TEXTS, MOST_TOKENS = 4, 64
"""Random texts on which a model is measured, and tokens that they have at most."""


def steepness_of(checkpoint: Checkpoint, prompt_tokens: int, text_tokens: int, *, by_words: bool) -> float:
    """The largest derivative of a difference of two logits by a number of the soft prompt, on random texts.

    It says little of the weights: it is a power of two, and of texts, prompts and labels that are random words.

    Args:
        checkpoint: of an encoder.
        prompt_tokens: of a soft prompt, whose numbers are in standard deviations of the word embeddings.
        text_tokens: of a text, of which MOST_TOKENS are taken.
        by_words: the head is that of label words, and not of label embeddings.
    """
    config = checkpoint.config
    words: Floats = checkpoint.variables["params"]["embeddings"]["word"]["embedding"]
    rng = np.random.default_rng(0)
    ids = rng.integers(config.vocab_size, size=(TEXTS, prompt_tokens + min(text_tokens, MOST_TOKENS)))
    model, ones = Transformer(config), np.ones(ids.shape, np.float32)
    some = rng.choice(config.vocab_size, 2, replace=False).tolist()

    @jax.jit
    def difference(shifts: Array) -> Array:
        texts = jnp.zeros((TEXTS, ids.shape[1] - prompt_tokens, config.width))
        moved = words[ids] + jnp.concatenate([shifts * words.std(), texts], 1)
        hidden = jnp.asarray(model.apply(checkpoint.variables, moved, ones, method=Transformer.encode_vectors))
        if by_words:
            head = {"params": checkpoint.label_word_head(some)}
            logits = jnp.asarray(LabelWordHead(config, len(some)).apply(head, hidden, jnp.eye(1, ids.shape[1]) * ones))
            return (logits[:, 0] - logits[:, 1]).sum()
        pooled = jnp.asarray(PooledEmbedding().apply({}, hidden, ones / ids.shape[1]))
        labels = [jnp.roll(jax.lax.stop_gradient(pooled), number, 0) for number in (1, 2)]
        return SIMILARITY_SCALE * (pooled * (labels[0] - labels[1])).sum()

    found = jax.grad(difference)(jnp.zeros((TEXTS, prompt_tokens, config.width)))
    return 2.0 ** math.ceil(math.log2(max(float(jnp.abs(found).max()), 2.0**-18)))
