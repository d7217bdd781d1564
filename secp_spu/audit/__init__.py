"""The audit: reads compiled programs and proves that everything they open is masked."""

from secp_spu.audit.proof import AuditError, audit_program
from secp_spu.audit.report import AuditReport, Opening, audit_json, marked
from secp_spu.audit.values import CorrelationInput

__all__ = ["AuditError", "AuditReport", "CorrelationInput", "Opening", "audit_json", "audit_program", "marked"]
