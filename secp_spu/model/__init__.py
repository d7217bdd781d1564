"""Transformers, encoders and decoders: the same code in plaintext and under MPC."""

from secp_spu.model.activation import (
    ACTIVATIONS,
    Activation,
    activation_class,
    activation_function,
    is_function,
    is_gelu,
)
from secp_spu.model.attention import ATTENTIONS, Attention, attention_class
from secp_spu.model.attention.fourier import FourierAttention, token_shares
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
from secp_spu.model.hub.families import FAMILIES
from secp_spu.model.hub.fingerprint import describe_config, fingerprint_json, fingerprint_tables, fingerprint_weights
from secp_spu.model.layers import Dense, Norm, apply_module
from secp_spu.model.precision import HIDDEN_BITS, SUM_BITS
from secp_spu.model.setting import FOLDED, PLAIN, Setting
from secp_spu.model.steepness import steepness_of
from secp_spu.model.transformer import (
    DecoderLayer,
    Embeddings,
    EncoderLayer,
    Transformer,
    hidden_bits,
    layer_class,
)
from secp_spu.model.transformer_config import ActivationKind, AttentionKind, TransformerConfig

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "FAMILIES",
    "FOLDED",
    "HIDDEN_BITS",
    "PLAIN",
    "SUM_BITS",
    "Activation",
    "ActivationKind",
    "Attention",
    "AttentionKind",
    "Checkpoint",
    "CheckpointError",
    "DecoderLayer",
    "Dense",
    "Embeddings",
    "EncoderLayer",
    "FourierAttention",
    "LabelEmbeddingHead",
    "LabelWordHead",
    "Norm",
    "PooledEmbedding",
    "RandomFeatureAttention",
    "Setting",
    "SoftmaxAttention",
    "Transformer",
    "TransformerConfig",
    "activation_class",
    "activation_function",
    "apply_module",
    "attention_class",
    "describe_config",
    "fingerprint_json",
    "fingerprint_tables",
    "fingerprint_weights",
    "fold_head",
    "fold_layer",
    "hidden_bits",
    "is_function",
    "is_gelu",
    "label_embedding_limit",
    "label_word_limit",
    "layer_class",
    "load_checkpoint",
    "load_embeddings",
    "load_transformer_config",
    "orthogonal_frequencies",
    "read_out",
    "save_checkpoint",
    "save_embeddings",
    "steepness_of",
    "token_shares",
]
