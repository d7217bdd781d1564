"""Random weights for the tests of this folder: every bias, scale and length differs from its initial value."""

import jax
import jax.numpy as jnp
import numpy as np

from secp_spu.model import LabelWordHead, Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=31,
    width=21,
    layers=2,
    heads=3,
    intermediate=23,
    max_positions=19,
    position_offset=2,
    type_vocab_size=2,
    layer_norm_epsilon=1e-5,
)
"""Sizes are distinct primes; width is the product of 3 heads and 7 dimensions."""


def random_like(shapes, seed: int):
    """A tree of numpy arrays in these shapes, of the size trained weights have: layer norms near one, others small."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if name == "kernel":
            return noise / np.float32(np.sqrt(leaf.shape[0]))
        return 1 + noise / 5 if name in ("scale", "length") else noise / 3

    return jax.tree_util.tree_map_with_path(draw, shapes)


def transformer_variables(config: TransformerConfig, seed: int = 0):
    """Collections "params" (random) and "public" of `Transformer(config)`."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = Transformer(config).init(jax.random.key(0), tokens, jnp.ones((1, 2)))
    return {"params": random_like(variables["params"], seed), "public": variables.get("public", {})}


def head_params(config: TransformerConfig, seed: int = 1):
    """Random params of `LabelWordHead` over the whole vocabulary."""
    hidden, readout = jnp.zeros((1, 2, config.width)), jnp.zeros((1, 2))
    head = LabelWordHead(config, config.vocab_size)
    return random_like(jax.eval_shape(head.init, jax.random.key(0), hidden, readout)["params"], seed)
