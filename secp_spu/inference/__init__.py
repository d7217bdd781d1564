"""A model on a runtime: its layers as programs, embedding under MPC, and the memory that a pass takes."""

from secp_spu.inference.backward_pass import BackwardPass
from secp_spu.inference.memory import pass_bytes, sequence_bytes, sequences_within
from secp_spu.inference.private_embedding import (
    PrivateEmbedding,
    encoded_words,
    look_up,
    one_hot,
    other_tables,
    parts,
)
from secp_spu.inference.prompt_embedding import SHIFT_BITS, PromptEmbedding
from secp_spu.inference.secure_model import (
    Batch,
    Kept,
    SecureModel,
    StreamedLayers,
    keep_openings,
    setting_of,
    static_kernels,
)

__all__ = [
    "SHIFT_BITS",
    "BackwardPass",
    "Batch",
    "Kept",
    "PrivateEmbedding",
    "PromptEmbedding",
    "SecureModel",
    "StreamedLayers",
    "encoded_words",
    "keep_openings",
    "look_up",
    "one_hot",
    "other_tables",
    "parts",
    "pass_bytes",
    "sequence_bytes",
    "sequences_within",
    "setting_of",
    "static_kernels",
]
