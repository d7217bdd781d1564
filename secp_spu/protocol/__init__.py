"""Secure functions as pure JAX: arrays in, arrays out; no parties, no files, no configuration."""

from secp_spu.protocol.audit import AuditError, AuditReport, audit_program
from secp_spu.protocol.correlation import (
    CosineCorrelation,
    SpentCorrelationError,
    combine_factors,
    declare_correlation,
    joint_plan,
)
from secp_spu.protocol.cosine import cos_error_bound, cos_sin, secure_cos_sin
from secp_spu.protocol.ring import FRACTION_BITS, from_ring, open_masked, to_ring, truncate
from secp_spu.protocol.sharing import MaskStream, Scheme

__all__ = [
    "FRACTION_BITS",
    "AuditError",
    "AuditReport",
    "CosineCorrelation",
    "MaskStream",
    "Scheme",
    "SpentCorrelationError",
    "audit_program",
    "combine_factors",
    "cos_error_bound",
    "cos_sin",
    "declare_correlation",
    "from_ring",
    "joint_plan",
    "open_masked",
    "secure_cos_sin",
    "to_ring",
    "truncate",
]
