"""Where secure programs run, and what they cost."""

from secp_spu.runtime.base import Correlations, Owned, Runtime, Stored
from secp_spu.runtime.dry import AuditRuntime
from secp_spu.runtime.embedding import (
    SHIFT_BITS,
    PrivateEmbedding,
    encoded_words,
    look_up,
    one_hot,
    other_tables,
    parts,
)
from secp_spu.runtime.forward import Batch, SecureModel, StreamedLayers, keep_openings, static_kernels
from secp_spu.runtime.journal import Journal
from secp_spu.runtime.ledger import Ledger
from secp_spu.runtime.local import LocalRuntime
from secp_spu.runtime.memory import available_bytes, pass_bytes, sequence_bytes, sequences_within
from secp_spu.runtime.plaintext import PlaintextRuntime
from secp_spu.runtime.program import Program, Spec, compile_program

__all__ = [
    "SHIFT_BITS",
    "AuditRuntime",
    "Batch",
    "Correlations",
    "Journal",
    "Ledger",
    "LocalRuntime",
    "Owned",
    "PlaintextRuntime",
    "PrivateEmbedding",
    "Program",
    "Runtime",
    "SecureModel",
    "Spec",
    "Stored",
    "StreamedLayers",
    "available_bytes",
    "compile_program",
    "encoded_words",
    "keep_openings",
    "look_up",
    "one_hot",
    "other_tables",
    "parts",
    "pass_bytes",
    "sequence_bytes",
    "sequences_within",
    "static_kernels",
]
