"""Trains the demo's masked language model, with attention by learned features and square activations."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from demo_corpus import MASKED_TOKENS, PADDING, SEQUENCE_TOKENS, Corpus, MaskedBatch, draw_batch
from jax import Array

from secp_spu.model import LabelWordHead, Transformer, TransformerConfig

log = logging.getLogger(__name__)

Tree = dict[str, Any]

BATCH = 64
WARM_UP_STEPS = 200
PEAK_LEARNING_RATE = 1.5e-3
INITIAL_DEVIATIONS = {"word": 0.1, "position": 0.03, "type": 0.03}
"""Of the tables of embeddings."""

RAMP_SHARE = 0.6
"""Share of the steps over which questions to which yes means bad come up: what words mean is learned before what is
asked, and neither is learned if both kinds of question come as often from the start."""

OTHER_TARGETS_WEIGHT = 0.1
"""Of the loss at masked tokens that are no answers."""

LEAST_KERNEL = 0.15
KERNEL_PENALTY = 1000.0
"""Mean kernels below LEAST_KERNEL cost the square of what they lack, times KERNEL_PENALTY: they are the denominators of
attention, and the reciprocal wants them above 1/32. Without the penalty some pass through zero in training."""

INITIAL_LENGTH = 0.7
"""Expected length of queries and keys at the start, in units of the Gaussian kernel."""


def train(config: TransformerConfig, corpus: Corpus, *, steps: int, seed: int) -> Tree:
    """Params of `Transformer` ("encoder") and of `LabelWordHead` over all words ("head"), its decoder tied to them."""
    params = _initial(config, jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, PEAK_LEARNING_RATE, WARM_UP_STEPS, steps, PEAK_LEARNING_RATE / 50
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))
    state = optimizer.init(params)

    @jax.jit
    def step(params: Tree, state: optax.OptState, batch: MaskedBatch):
        objective = partial(_objective, config, batch=batch)
        gradient, losses = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, losses

    rng = np.random.default_rng(seed)
    rows = {good: np.flatnonzero(corpus.asks_for_good == good) for good in (True, False)}
    for i in range(steps):
        other = rng.random(BATCH) < 0.5 * min(1.0, i / (RAMP_SHARE * steps))
        chosen = np.where(other, rng.choice(rows[False], BATCH), rng.choice(rows[True], BATCH))
        batch = draw_batch(corpus, chosen, rng)
        params, state, losses = step(params, state, batch)
        if i % 250 == 249:
            log.info("step %d: loss of answers %.3f, of other words %.3f", i + 1, *losses)
    return {"encoder": params["encoder"], "head": _head(params)}


def apply_watched(
    model: Transformer, variables: Tree, token_ids: Array, padding_mask: Array
) -> tuple[Array, list[Array]]:
    """The hidden state [batch, tokens, width], and every layer's mean kernels [batch, heads, tokens, 1]."""
    hidden, seen = model.apply(variables, token_ids, padding_mask, mutable=["intermediates"])
    return jnp.asarray(hidden), jax.tree.leaves(seen["intermediates"])


def _initial(config: TransformerConfig, key: Array) -> Tree:
    """Params to train."""
    keys = jax.random.split(key, 3)
    row = jnp.zeros((1, SEQUENCE_TOKENS))
    encoder = Transformer(config).init(keys[0], row.astype(jnp.int32), row)
    for layer in range(config.layers):
        attention = encoder["params"][f"layers_{layer}"]["attention"]
        attention["frequencies"] *= INITIAL_LENGTH / math.sqrt(config.head_dim)
    embeddings = encoder["params"]["embeddings"]
    for table, table_key in zip(INITIAL_DEVIATIONS, jax.random.split(keys[1], 3), strict=True):
        shape = embeddings[table]["embedding"].shape
        embeddings[table]["embedding"] = INITIAL_DEVIATIONS[table] * jax.random.normal(table_key, shape)
    head = LabelWordHead(config, config.vocab_size).init(keys[2], row[..., None] + jnp.zeros(config.width), row)[
        "params"
    ]
    decoder_bias = head.pop("decoder")["bias"]
    return {"encoder": encoder["params"], "head": head, "decoder_bias": decoder_bias}


def _head(params: Tree) -> Tree:
    """Params of `LabelWordHead` over all words, its decoder tied to the word embeddings."""
    words = params["encoder"]["embeddings"]["word"]["embedding"]
    return {**params["head"], "decoder": {"kernel": words.T, "bias": params["decoder_bias"]}}


def _objective(config: TransformerConfig, params: Tree, batch: MaskedBatch) -> tuple[Array, Array]:
    """What training makes small; and the losses of answers and of other words."""
    padding_mask = (batch.token_ids != PADDING).astype(jnp.float32)
    hidden, kernels = apply_watched(Transformer(config), {"params": params["encoder"]}, batch.token_ids, padding_mask)
    head = {"params": _head(params)}
    rows = jax.nn.one_hot(batch.places, SEQUENCE_TOKENS)
    logits = jax.vmap(lambda row: LabelWordHead(config, config.vocab_size).apply(head, hidden, row), 1, 1)(rows)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean(0)
    weights = np.array([1.0] + [OTHER_TARGETS_WEIGHT] * (MASKED_TOKENS - 1), np.float32)
    lacking = sum(jnp.mean(jax.nn.relu(LEAST_KERNEL - kernel) ** 2) for kernel in kernels)
    return losses @ weights + KERNEL_PENALTY * lacking, jnp.stack([losses[0], losses[1:].mean()])
