"""Transformers, encoders and decoders: the same code in plaintext and under MPC."""

from secp_spu.model.activation import Activation, activation, fold_quadratic
from secp_spu.model.attention.fourier import FourierAttention, projected_columns, token_shares
from secp_spu.model.attention.random_features import RandomFeatureAttention, orthogonal_frequencies
from secp_spu.model.attention.softmax import SoftmaxAttention
from secp_spu.model.folding import fold_head, fold_layer
from secp_spu.model.head import (
    LabelEmbeddingHead,
    LabelWordHead,
    PooledEmbedding,
    label_embedding_limit,
    label_word_limit,
    read_out,
)
from secp_spu.model.hub.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_embeddings,
    load_transformer_config,
    save_checkpoint,
    save_embeddings,
)
from secp_spu.model.hub.config_json import CheckpointError
from secp_spu.model.hub.fingerprint import describe_config, fingerprint_json, fingerprint_tables, fingerprint_weights
from secp_spu.model.layers import Dense, Norm
from secp_spu.model.precision import HIDDEN_BITS, SUM_BITS
from secp_spu.model.transformer import (
    KINDS,
    DecoderLayer,
    Embeddings,
    EncoderLayer,
    Transformer,
    hidden_bits,
    layer_class,
)
from secp_spu.model.transformer_config import (
    ActivationKind,
    AttentionKind,
    FunctionKind,
    TransformerConfig,
    is_function,
)

__all__ = [
    "HIDDEN_BITS",
    "KINDS",
    "SUM_BITS",
    "Activation",
    "ActivationKind",
    "AttentionKind",
    "Checkpoint",
    "CheckpointError",
    "DecoderLayer",
    "Dense",
    "Embeddings",
    "EncoderLayer",
    "FourierAttention",
    "FunctionKind",
    "LabelEmbeddingHead",
    "LabelWordHead",
    "Norm",
    "PooledEmbedding",
    "RandomFeatureAttention",
    "SoftmaxAttention",
    "Transformer",
    "TransformerConfig",
    "activation",
    "describe_config",
    "fingerprint_json",
    "fingerprint_tables",
    "fingerprint_weights",
    "fold_head",
    "fold_layer",
    "fold_quadratic",
    "hidden_bits",
    "is_function",
    "label_embedding_limit",
    "label_word_limit",
    "layer_class",
    "load_checkpoint",
    "load_embeddings",
    "load_transformer_config",
    "orthogonal_frequencies",
    "projected_columns",
    "read_out",
    "save_checkpoint",
    "save_embeddings",
    "token_shares",
]
