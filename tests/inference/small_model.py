"""A small model with random weights, a batch of prompts and texts, and the way of both to a runtime."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from parties import opened, shared

from secp_spu.inference import Batch, SecureModel
from secp_spu.model import EncoderLayer, LabelWordHead, TransformerConfig, fold_head, fold_layer
from secp_spu.model.precision import HIDDEN_BITS
from secp_spu.protocol import to_storage

CONFIG = TransformerConfig(
    vocab_size=2,
    width=21,
    layers=1,
    heads=3,
    intermediate=13,
    max_positions=5,
    position_offset=0,
    type_vocab_size=1,
    layer_norm_epsilon=1e-5,
    activation="relu",
    head_activation="relu",
    features=61,
)
CANDIDATES, TEXTS, PROMPT_TOKENS, TEXT_TOKENS, LABELS = 2, 3, 2, 5, 2
TOKENS = PROMPT_TOKENS + TEXT_TOKENS
TEXT_LENGTHS = (5, 3, 1)


def random_variables(module, *inputs, seed):
    """Weights of the size that trained ones have: no bias, scale or length at its initial value."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape).astype(np.float32)
        if name == "kernel":
            return noise / np.float32(np.sqrt(leaf.shape[0]))
        if name == "frequencies":
            return noise / 30  # angles of a quarter turn at most, so that the mean kernel is far from zero
        return 0.8 + noise / 10 if name in ("scale", "length") else noise / 10

    variables = module.init(jax.random.key(seed), *inputs)
    params = jax.tree_util.tree_map_with_path(draw, variables["params"])
    return {"params": params, "public": jax.tree.map(np.asarray, variables.get("public", {}))}


@dataclass(frozen=True)
class Parts:
    """Everything in plaintext."""

    config: TransformerConfig
    layers: list
    head: dict
    prompts: np.ndarray
    hidden: np.ndarray
    padding_mask: np.ndarray
    readout: np.ndarray


def make_parts(config, layers=1):
    rng = np.random.default_rng(2)
    prompts = rng.normal(size=(CANDIDATES, PROMPT_TOKENS, config.width)).astype(np.float32)
    hidden = rng.normal(size=(TEXTS, TEXT_TOKENS, config.width)).astype(np.float32)
    padding_mask = np.float32([[i < PROMPT_TOKENS + length for i in range(TOKENS)] for length in TEXT_LENGTHS])
    readout = np.zeros((TEXTS, TOKENS), np.float32)
    readout[:, 0] = 1
    tokens = jnp.zeros((1, TOKENS, config.width)), jnp.ones((1, TOKENS))
    variables = [random_variables(EncoderLayer(config, i), *tokens, seed=i) for i in range(layers)]
    head = random_variables(LabelWordHead(config, LABELS), *tokens, seed=7)["params"]
    return Parts(config, variables, head, prompts, hidden, padding_mask, readout)


def run_model(runtime, parts, **options):
    """Logits as the data owner sees them, by the driver's own way."""
    model = secure_model(runtime, parts, **options)
    prompts = shared(runtime, to_storage(parts.prompts, HIDDEN_BITS))
    return opened(runtime, model.logits(prompts, shared_batch(runtime, parts)))


def folded(parts):
    """Each layer's folded parameters, those of the label-word head, and the last norm."""
    norms = [layer["params"]["output_norm"] for layer in parts.layers]
    layers = [
        fold_layer(layer["params"], before, parts.config)
        for layer, before in zip(parts.layers, [None, *norms], strict=False)
    ]
    return layers, fold_head(parts.head, norms[-1]), norms[-1]


def secure_model(runtime, parts, *, word_head=True, **options):
    params_of_layers, params_of_head, last_norm = folded(parts)
    layers = [
        {"params": shared(runtime, params), "public": runtime.publish(layer["public"])}
        for params, layer in zip(params_of_layers, parts.layers, strict=True)
    ]
    head = shared(runtime, params_of_head if word_head else last_norm)
    return SecureModel(runtime, parts.config, layers, head, LABELS, **options)


def shared_batch(runtime, parts):
    return Batch(*(shared(runtime, values) for values in (lowered(parts), parts.padding_mask, parts.readout)))


def lowered(parts):
    """The texts as layers take them: zero on padding."""
    return to_storage(parts.hidden * parts.padding_mask[:, PROMPT_TOKENS:, None], HIDDEN_BITS)


def mean_readout(parts):
    """1/length over the tokens of the texts alone."""
    rows = parts.padding_mask[:, PROMPT_TOKENS:]
    return rows / rows.sum(1, keepdims=True)
