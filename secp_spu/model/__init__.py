"""Transformer encoders: the same code in plaintext and under MPC."""

from secp_spu.model.activation import Activation, activation, fold_quadratic
from secp_spu.model.attention import RandomFeatureAttention, SoftmaxAttention, orthogonal_frequencies
from secp_spu.model.checkpoint import Checkpoint, load_checkpoint, load_embeddings, save_checkpoint, save_embeddings
from secp_spu.model.config import ActivationKind, AttentionKind, EncoderConfig, FunctionKind
from secp_spu.model.encoder import Embeddings, Encoder, EncoderLayer
from secp_spu.model.head import LabelEmbeddingHead, LabelWordHead, PooledEmbedding, read_out
from secp_spu.model.hub_config import CheckpointError

__all__ = [
    "Activation",
    "ActivationKind",
    "AttentionKind",
    "Checkpoint",
    "CheckpointError",
    "Embeddings",
    "Encoder",
    "EncoderConfig",
    "EncoderLayer",
    "FunctionKind",
    "LabelEmbeddingHead",
    "LabelWordHead",
    "PooledEmbedding",
    "RandomFeatureAttention",
    "SoftmaxAttention",
    "activation",
    "fold_quadratic",
    "load_checkpoint",
    "load_embeddings",
    "orthogonal_frequencies",
    "read_out",
    "save_checkpoint",
    "save_embeddings",
]
