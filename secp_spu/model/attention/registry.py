"""The kinds of attention that a model may have, by their names in configurations: one line each."""

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


def attention_class(config: TransformerConfig) -> type[Attention]:
    """The class of a model's attention.

    Raises: ValueError for a kind that is not registered.
    """
    if config.attention not in ATTENTIONS:
        raise ValueError(f"attention is {config.attention!r}, allowed: {', '.join(map(repr, ATTENTIONS))}")
    return ATTENTIONS[config.attention]
