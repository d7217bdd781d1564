"""The activations of feed-forward layers under MPC."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import numpy as np
from jax import Array

from secp_spu.bench.records import Case
from secp_spu.bench.setting import Setting, measure_function
from secp_spu.model import ActivationKind, activation

RANGE = 6.0
"""Inputs are drawn from -RANGE to RANGE."""

ACTIVATIONS: tuple[ActivationKind, ...] = get_args(ActivationKind)


def activation_cases(setting: Setting, elements: int) -> Iterator[Case]:
    """Every activation that a model may have, on the same inputs."""
    x = np.random.default_rng(0).uniform(-RANGE, RANGE, size=elements).astype(np.float32)
    for kind in ACTIVATIONS:
        key = {"bench": "activation", "variant": kind, **setting.key, "elements": elements}
        yield Case(key, partial(measure_function, setting, kind, partial(_apply, kind), x))


def _apply(kind: ActivationKind, x: Array, _public: Any, _correlations: Any) -> Array:
    return activation(kind)(x)
