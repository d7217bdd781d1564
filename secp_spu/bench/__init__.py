"""What private tuning costs, and what the alternatives would: measurements, records, tables and figures."""

from secp_spu.bench.accuracy_tables import accuracy_tables
from secp_spu.bench.measure_accuracy import ADAPTED, BY_GRADIENT, FEW_SHOT, SOURCE, FewShotRun, accuracy_cases
from secp_spu.bench.measure_activation import activation_cases
from secp_spu.bench.measure_attention import attention_cases
from secp_spu.bench.measure_batching import batching_cases, batching_tables
from secp_spu.bench.measure_cosine import cosine_cases
from secp_spu.bench.measure_embedding import embedding_cases, embedding_tables
from secp_spu.bench.measure_iteration import ATTENTION, Iteration, iteration_cases
from secp_spu.bench.measure_optimizers import DATA_SETTING, TASKS, Comparison, has_data, optimizer_cases
from secp_spu.bench.mpc_setting import MpcSetting, make_setting
from secp_spu.bench.network_check import check_cases, check_tables
from secp_spu.bench.network_model import network_cases, network_tables
from secp_spu.bench.records import Case, Record, RecordFile, measure_all, read_records
from secp_spu.bench.report import write_report
from secp_spu.bench.run_cost import run_cost_cases, run_cost_tables
from secp_spu.bench.schema import AccuracyMethod
from secp_spu.bench.shapes import SHAPES
from secp_spu.bench.tables import (
    Table,
    activation_tables,
    attention_tables,
    cosine_tables,
    iteration_tables,
    operation_tables,
    optimizer_tables,
)

__all__ = [
    "ADAPTED",
    "ATTENTION",
    "BY_GRADIENT",
    "DATA_SETTING",
    "FEW_SHOT",
    "SHAPES",
    "SOURCE",
    "TASKS",
    "AccuracyMethod",
    "Case",
    "Comparison",
    "FewShotRun",
    "Iteration",
    "MpcSetting",
    "Record",
    "RecordFile",
    "Table",
    "accuracy_cases",
    "accuracy_tables",
    "activation_cases",
    "activation_tables",
    "attention_cases",
    "attention_tables",
    "batching_cases",
    "batching_tables",
    "check_cases",
    "check_tables",
    "cosine_cases",
    "cosine_tables",
    "embedding_cases",
    "embedding_tables",
    "has_data",
    "iteration_cases",
    "iteration_tables",
    "make_setting",
    "measure_all",
    "network_cases",
    "network_tables",
    "operation_tables",
    "optimizer_cases",
    "optimizer_tables",
    "read_records",
    "run_cost_cases",
    "run_cost_tables",
    "write_report",
]
