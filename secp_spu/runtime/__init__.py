"""Where secure programs run, and what they cost; nothing here knows a model."""

from secp_spu.runtime.audit_only import AuditRuntime
from secp_spu.runtime.base import Runtime
from secp_spu.runtime.cgroup import available_bytes
from secp_spu.runtime.handles import Actor, Correlations, Owned, Stored
from secp_spu.runtime.journal import Journal
from secp_spu.runtime.ledger import Ledger
from secp_spu.runtime.local import LocalRuntime
from secp_spu.runtime.plaintext import PlaintextRuntime
from secp_spu.runtime.program import Program, Spec, compile_program

__all__ = [
    "Actor",
    "AuditRuntime",
    "Correlations",
    "Journal",
    "Ledger",
    "LocalRuntime",
    "Owned",
    "PlaintextRuntime",
    "Program",
    "Runtime",
    "Spec",
    "Stored",
    "available_bytes",
    "compile_program",
]
