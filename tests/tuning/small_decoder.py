"""A small decoder, which tests of tuning and of exported prompts share."""

import json

import jax
import numpy as np

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.model import LabelWordHead, Transformer, TransformerConfig, save_checkpoint

MODEL = load_config(DEMO_CONFIG).model.folder


def write_decoder(folder, attention):
    """Random weights; a tokenizer that, as GPT-2's, has no other special token than the one that ends a text."""
    content = json.loads((MODEL / "tokenizer.json").read_text()) | {"post_processor": None}
    text = json.dumps(content).replace('"<pad>"', '"<|endoftext|>"').replace('"<mask>"', '"<|none|>"')
    (folder / "trained.json").write_text(text)
    config = TransformerConfig(
        vocab_size=len(content["model"]["vocab"]),
        width=16,
        layers=2,
        heads=2,
        intermediate=24,
        max_positions=19,
        position_offset=0,
        type_vocab_size=0,
        layer_norm_epsilon=1e-5,
        activation="relu",
        head_activation="relu",
        **({"attention": "fourier", "features": 8} if attention == "fourier" else {}),
        causal=True,
    )
    key, ids, ones = jax.random.key(0), np.zeros((1, 19), int), np.ones((1, 19))
    variables = jax.device_get(Transformer(config).init(key, ids, ones))
    for layer in range(config.layers if attention == "fourier" else 0):
        params = variables["params"][f"layers_{layer}"]["attention"]
        params["frequencies"] = params["frequencies"] / 8  # so that the mean kernel is far from zero
    hidden = np.zeros((1, 19, config.width), np.float32)
    head = jax.device_get(LabelWordHead(config, config.vocab_size).init(key, hidden, ones))["params"]
    save_checkpoint(
        folder / "model", config, variables, head, model_type="gpt2", tokenizer_json=folder / "trained.json"
    )
    return folder / "model"
