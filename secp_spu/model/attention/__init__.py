"""Attention: a file for each kind, the same module in plaintext and under MPC.

A new kind is a file with a subclass of `Attention` and a line in `ATTENTIONS`.
"""

from __future__ import annotations

from secp_spu.model.attention.attention import Attention
from secp_spu.model.attention.fourier import FourierAttention
from secp_spu.model.attention.random_features import RandomFeatureAttention
from secp_spu.model.attention.softmax import SoftmaxAttention
from secp_spu.model.transformer_config import AttentionKind, TransformerConfig

ATTENTIONS: dict[AttentionKind, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "rfa": RandomFeatureAttention,
    "fourier": FourierAttention,
}
"""Kinds of attention by their names in configurations."""


def attention_class(config: TransformerConfig) -> type[Attention]:
    """The class of a model's attention.

    Raises: ValueError for a kind that is not registered.
    """
    if config.attention not in ATTENTIONS:
        raise ValueError(f"attention is {config.attention!r}, allowed: {', '.join(map(repr, ATTENTIONS))}")
    return ATTENTIONS[config.attention]


__all__ = ["ATTENTIONS", "Attention", "attention_class"]
