"""Cosine and sine under MPC: SPU's own, and those of one opening."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.bench.records import Case, Record
from secp_spu.bench.setting import Setting, measure_function
from secp_spu.protocol import FRACTION_BITS, cos_sin, declare_correlation, lower
from secp_spu.protocol.cosine import public_factor_bits

RANGE = 8.0
"""Angles are drawn from -RANGE to RANGE radians: several periods."""

FACTOR_BITS = 18
RESULT_BITS = FACTOR_BITS + public_factor_bits(FACTOR_BITS)
SCALE = 2.0 ** (RESULT_BITS - FRACTION_BITS)
"""What is opened of the one-opening cosine: all bits, where SPU's numbers have 18, so that nothing is truncated."""


def cosine_cases(setting: Setting, elements: int) -> Iterator[Case]:
    """SPU's cosine alone, its cosine and sine, and the pair by one opening."""
    x = np.random.default_rng(0).uniform(-RANGE, RANGE, size=(elements, 1)).astype(np.float32)
    key = {"bench": "cosine", **setting.key, "elements": elements}
    yield Case({**key, "variant": "spu-cos"}, partial(measure_function, setting, "cos", _spu_cos, x))
    yield Case({**key, "variant": "spu-cos-sin"}, partial(measure_function, setting, "cos_sin", _spu_cos_sin, x))
    yield Case({**key, "variant": "one-opening"}, partial(_one_opening, setting, x))


def _one_opening(setting: Setting, x: np.ndarray) -> Record:
    frequencies = np.array([[1 / (2 * np.pi)]], np.float32)
    declared = declare_correlation(x.shape, factor_bits=FACTOR_BITS)
    record = measure_function(setting, "one_opening", _all_bits, x, public=frequencies, declared=declared)
    return {**record, "max_abs_error": record["max_abs_error"] / SCALE}


def _all_bits(x: Array, frequencies: Array, correlation: Any) -> tuple[Array, ...]:
    """SCALE times cosine and sine."""
    return tuple(lower(part, RESULT_BITS) for part in cos_sin(x, frequencies, correlation))


def _spu_cos(x: Array, _public: Any, _correlations: Any) -> Array:
    return jnp.cos(x)


def _spu_cos_sin(x: Array, _public: Any, _correlations: Any) -> tuple[Array, Array]:
    return jnp.cos(x), jnp.sin(x)
