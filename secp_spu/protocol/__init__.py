"""Secure functions as pure JAX: arrays in, arrays out; no parties, no files, no configuration."""

from secp_spu.protocol.audit import AuditError, AuditReport, audit_program
from secp_spu.protocol.correlation import (
    CosineCorrelation,
    SpentCorrelationError,
    dealt_error_bound,
    declare_correlation,
    joint_error_bound,
    joint_plan,
)
from secp_spu.protocol.correlation_maker import (
    ROUNDS,
    Correction,
    CorrelationMaker,
    Dealer,
    Exchange,
    Message,
    combine_factors,
    finish_exchange,
    party_streams,
)
from secp_spu.protocol.cosine import cos_error_bound, cos_sin, secure_cos_sin
from secp_spu.protocol.fixed import Fixed, Number, constant, lift, lower, moved, multiply, rounded, to_fixed, to_float
from secp_spu.protocol.ring import FRACTION_BITS, from_ring, open_masked, to_ring, truncate
from secp_spu.protocol.sharing import MaskStream, Scheme, decode, encode

__all__ = [
    "FRACTION_BITS",
    "ROUNDS",
    "AuditError",
    "AuditReport",
    "Correction",
    "CorrelationMaker",
    "CosineCorrelation",
    "Dealer",
    "Exchange",
    "Fixed",
    "MaskStream",
    "Message",
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
    "decode",
    "encode",
    "finish_exchange",
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
    "to_fixed",
    "to_float",
    "to_ring",
    "truncate",
]
