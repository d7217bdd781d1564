"""The activations of feed-forward layers under MPC, on what a dense layer gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax import Array

from secp_spu.bench.mpc_setting import MpcSetting, measure_function
from secp_spu.bench.records import Case, Record
from secp_spu.bench.shapes import SHAPES
from secp_spu.model import ACTIVATIONS, FOLDED, Activation, ActivationKind, apply_module
from secp_spu.model.attention.random_features import PROJECTION_BITS
from secp_spu.protocol import GeluSeries, Number, fit_gelu, from_storage, to_storage
from secp_spu.trees import Tree

RANGE = 6.0
"""Inputs are drawn from -RANGE to RANGE."""

SERIES_RANGE, SERIES_TERMS = 8.0, 5
"""Range of the series that is measured."""

ELEMENT_BYTES = 2200
"""Bytes of a party's memory that an input takes: 2,050 were seen with the series under semi2k (SPU 0.9.5)."""


def series_of(kind: ActivationKind) -> GeluSeries | None:
    """The series that is measured, where one is."""
    return fit_gelu(SERIES_RANGE, SERIES_TERMS) if kind == "series" else None


def activation_cases(setting: MpcSetting, elements: int) -> Iterator[Case]:
    """Every activation that a model may have, on the same inputs; "quadratic" with folded parameters."""
    for kind in ACTIVATIONS:
        key = {"bench": "activation", "variant": kind, **setting.key, "elements": elements}
        memory = setting.parties * elements * ELEMENT_BYTES
        yield Case(key, partial(_measure, setting, kind, elements), memory_bytes=memory)


def _measure(setting: MpcSetting, kind: ActivationKind, elements: int) -> Record:
    """Costs and error; of a series also how far it is from GELU itself in its range."""
    x = np.random.default_rng(0).uniform(-RANGE, RANGE, size=elements).astype(np.float32)
    series = series_of(kind)
    module = ACTIVATIONS[kind](replace(SHAPES["tiny"], activation=kind, series=series), FOLDED)
    declared = jax.eval_shape(module.init, jax.random.key(0), x).get("correlations", {})
    record = measure_function(setting, kind, partial(_apply, module), to_storage(x, PROJECTION_BITS), declared=declared)
    if series is None:
        return record
    return {**record, "terms": series.terms, "range": series.limit, "fit_error": series.error}


def _apply(module: Activation, x: Array, _public: Tree, correlations: Tree, *, secure: bool) -> Number:
    spent = {"correlations": correlations} if correlations else {}
    result: Number = apply_module(module, spent, from_storage(x, PROJECTION_BITS, secure=secure))
    return result
