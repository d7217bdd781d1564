"""Transformer encoders: the same code in plaintext and under MPC."""

from secp_spu.model.activation import activation
from secp_spu.model.attention import RandomFeatureAttention, SoftmaxAttention, orthogonal_frequencies
from secp_spu.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_embeddings,
    load_encoder_config,
    save_checkpoint,
    save_embeddings,
)
from secp_spu.model.config import ActivationKind, AttentionKind, EncoderConfig
from secp_spu.model.encoder import Embeddings, Encoder, EncoderLayer
from secp_spu.model.head import LabelEmbeddingHead, LabelWordHead, PooledEmbedding, read_out
from secp_spu.model.hub_config import CheckpointError

__all__ = [
    "ActivationKind",
    "AttentionKind",
    "Checkpoint",
    "CheckpointError",
    "Embeddings",
    "Encoder",
    "EncoderConfig",
    "EncoderLayer",
    "LabelEmbeddingHead",
    "LabelWordHead",
    "PooledEmbedding",
    "RandomFeatureAttention",
    "SoftmaxAttention",
    "activation",
    "load_checkpoint",
    "load_embeddings",
    "load_encoder_config",
    "orthogonal_frequencies",
    "read_out",
    "save_checkpoint",
    "save_embeddings",
]
