"""The keys of bench records that tables and figures read, and what each may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from secp_spu.config import OptimizerKind

Method = Literal["sft", "prompt", "fot", "fot-rfa", "fot-fourier", "gradient"]
AccuracyMethod = Literal[
    "probe",
    "fine-tuning",
    "gradient-prompt",
    "fot",
    "fot-transfer",
    "fot-adapted",
    "fot-secure",
    "momentum-adapted",
    "momentum-secure",
    "adam-adapted",
    "adam-secure",
]
FewShotTask = Literal["sst2", "agnews", "kitchen_reviews", "rte"]

LARGEST = 2**60
"""Largest size of any number: what fits in an array."""

LONGEST_SHOWN = 40
"""Characters of a wrong value."""

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[\w-]+$")]
"""What may be part of a file's name."""

Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Keys(BaseModel):
    """Keys that have to be there; there may be more."""

    model_config = ConfigDict(strict=True)


class _Cost(_Keys):
    bytes: Amount
    bytes_total: Amount
    sends: Amount
    seconds: Amount


class _Divisor(_Cost):
    """What others are divided by."""

    bytes: Positive
    bytes_total: Positive
    seconds: Positive


class _Stages(_Keys):
    forward: _Cost
    backward: _Cost
    optimizer: _Cost


class _Sharing(_Keys):
    share: _Cost


class _SharedOnline(_Cost):
    programs: _Sharing


class _Predicted(_Keys):
    compute_seconds: Amount
    latency_seconds: Amount
    transfer_seconds: Amount
    seconds: Amount


class _Total(_Keys):
    bytes_total: Amount | None
    seconds: Amount | None


class _Record(_Keys):
    variant: Text
    machine: dict[str, str | int | float | None] = {}


class _Secure(_Record):
    protocol: Literal["aby3", "semi2k"]
    parties: Annotated[int, Field(ge=2, le=LARGEST)]
    correlations: Literal["joint", "dealt"]


class _Measured(_Secure):
    offline: _Cost
    online: _Cost
    max_abs_error: Number


class _Elements(_Measured):
    elements: Count


class _Attention(_Measured):
    variant: Literal["softmax", "rfa", "fourier"]
    seq_len: Count
    heads: Count
    head_dim: Count
    features: Count = 1
    online: _Divisor


class _Workload(_Measured):
    model: Name
    seq_len: Count
    batch: Count
    activation: Name


class _Iteration(_Workload):
    variant: Method
    layers: Count
    measured_layers: Count
    extrapolated: bool
    stages: _Stages
    online: _Divisor


class _Operation(_Workload):
    variant: Method
    operation: Text
    least_bytes: Amount = 0
    online: _Divisor


class _Batching(_Workload):
    layers: Count
    candidates: Count
    peak_bytes: Number
    estimated_bytes: Number


class _Embedding(_Workload):
    setup: _Cost
    online: _SharedOnline


class _Network(_Secure):
    source_bench: Text
    source_variant: Text
    offline: _Predicted
    online: _Predicted
    seconds: Amount


class _NetworkOfIteration(_Network):
    source_variant: Method
    model: Name
    seq_len: Count
    batch: Count
    activation: Name
    layers: Count
    extrapolated: bool


class _NetworkCheck(_Secure):
    attention: Text
    compute_seconds: Amount
    latency_seconds: Amount
    transfer_seconds: Amount
    predicted_seconds: Amount
    measured_seconds: Amount
    error: Number


class _Optimizers(_Record):
    variant: OptimizerKind
    task: Name
    seed: Whole
    max_evaluations: Count
    evaluations: Annotated[list[Count], Field(min_length=1)]
    training_loss: list[Number]
    validation_loss: list[Number]
    test_accuracy: Annotated[list[Annotated[list[Number], Field(min_length=2, max_length=2)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_lengths(self) -> _Optimizers:
        lengths = {len(found) for found in (self.evaluations, self.training_loss, self.validation_loss)}
        if len(lengths) > 1:
            raise ValueError("evaluations, training_loss and validation_loss must be of one length")
        return self


class _RunCost(_Secure):
    task: Name
    method: Method
    model: Name
    seq_len: Count
    batch: Count
    activation: Name
    layers: Count
    seeds: Count
    reached_by: Whole
    evaluations: Amount | None
    offline: _Total
    online: _Total

    @model_validator(mode="after")
    def _check_totals(self) -> _RunCost:
        figures = [getattr(phase, name) for phase in (self.offline, self.online) for name in _Total.model_fields]
        if self.evaluations is not None and None in figures:
            raise ValueError("offline and online must be numbers where evaluations is one")
        return self


class _Accuracy(_Record):
    variant: AccuracyMethod
    task: FewShotTask
    seed: Whole
    generations: Whole
    test_texts: Count | None = None
    model: Text
    accuracy: Share
    validation_loss: Number


class _Tuned(_Accuracy):
    untuned: Share


class _TunedUnderMpc(_Tuned):
    offline: _Cost
    online: _Cost


KEYS: dict[str, type[_Keys]] = {
    "accuracy": _Accuracy,
    "activation": _Elements,
    "attention": _Attention,
    "batching": _Batching,
    "cosine": _Elements,
    "embedding": _Embedding,
    "iteration": _Iteration,
    "network": _Network,
    "network-check": _NetworkCheck,
    "operation": _Operation,
    "optimizers": _Optimizers,
    "run-cost": _RunCost,
}
"""By bench; some variants have more."""


def fault(record: object) -> str | None:
    """What is wrong with a record, in words; None where nothing is."""
    if not isinstance(record, dict) or "bench" not in record:
        return "has no key `bench`"
    bench = record["bench"]
    if not isinstance(bench, str) or bench not in KEYS:
        return f"bench is {_shown(bench)}, but must be one of {', '.join(KEYS)}"
    try:
        _keys_of(record).model_validate(record)
    except ValidationError as error:
        return f"{bench}: {_explain(error.errors()[0])}"
    return None


def _keys_of(record: Mapping[str, object]) -> type[_Keys]:
    """What a record of a known bench must have."""
    match record["bench"], record.get("variant"), record.get("source_bench"):
        case "network", _, "iteration":
            return _NetworkOfIteration
        case "accuracy", "fot-secure" | "momentum-secure" | "adam-secure", _:
            return _TunedUnderMpc
        case "accuracy", "fot" | "fot-adapted" | "momentum-adapted" | "adam-adapted", _:
            return _Tuned
    return KEYS[str(record["bench"])]


def _explain(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key} is {_shown(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
