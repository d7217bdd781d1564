"""What private tuning costs, and what the alternatives would: measurements, records, tables and figures."""

from secp_spu.bench.records import Case, Record, RecordFile, measure_all, read_records

__all__ = ["Case", "Record", "RecordFile", "measure_all", "read_records"]
