"""Secure functions as pure JAX: arrays in, arrays out; no parties, no files, no configuration."""

from secp_spu.protocol.audit import AuditError, AuditReport, audit_program
from secp_spu.protocol.correlation import (
    Correction,
    CorrelationMaker,
    CosineCorrelation,
    Dealer,
    SpentCorrelationError,
    combine_factors,
    dealt_error_bound,
    declare_correlation,
    joint_error_bound,
    joint_plan,
    party_streams,
)
from secp_spu.protocol.cosine import cos_error_bound, cos_sin, secure_cos_sin
from secp_spu.protocol.fixed import Fixed, Number, constant, lift, lower, moved, multiply, rounded, to_fixed, to_float
from secp_spu.protocol.ring import FRACTION_BITS, from_ring, open_masked, to_ring, truncate
from secp_spu.protocol.series import (
    GeluSeries,
    declare_series,
    fit_gelu,
    secure_series_gelu,
    series_error_bound,
    series_gelu,
)
from secp_spu.protocol.sharing import MaskStream, Scheme, decode, encode

__all__ = [
    "FRACTION_BITS",
    "AuditError",
    "AuditReport",
    "Correction",
    "CorrelationMaker",
    "CosineCorrelation",
    "Dealer",
    "Fixed",
    "GeluSeries",
    "MaskStream",
    "Number",
    "Scheme",
    "SpentCorrelationError",
    "audit_program",
    "combine_factors",
    "constant",
    "cos_error_bound",
    "cos_sin",
    "dealt_error_bound",
    "declare_correlation",
    "declare_series",
    "decode",
    "encode",
    "fit_gelu",
    "from_ring",
    "joint_error_bound",
    "joint_plan",
    "lift",
    "lower",
    "moved",
    "multiply",
    "open_masked",
    "party_streams",
    "rounded",
    "secure_cos_sin",
    "secure_series_gelu",
    "series_error_bound",
    "series_gelu",
    "to_fixed",
    "to_float",
    "to_ring",
    "truncate",
]
