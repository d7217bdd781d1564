"""The audit: reads compiled programs and proves that everything they open is masked."""

from secp_spu.auditing.audit_report import AuditReport, Opening, audit_json, marked
from secp_spu.auditing.proof import AuditError, audit_program
from secp_spu.auditing.values import CorrelationInput

__all__ = ["AuditError", "AuditReport", "CorrelationInput", "Opening", "audit_json", "audit_program", "marked"]
