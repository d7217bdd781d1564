"""Cosine and sine under MPC: SPU's own, and those of one opening."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.bench.records import Case
from secp_spu.bench.setting import Setting, measure_function
from secp_spu.protocol import cos_sin, declare_correlation

RANGE = 8.0
"""Angles are drawn from -RANGE to RANGE radians: several periods."""

FACTOR_BITS = (9, 18)


def cosine_cases(setting: Setting, elements: int) -> Iterator[Case]:
    """SPU's cosine alone, its cosine and sine, and the pair by one opening with factors of 9 and 18 bits."""
    x = np.random.default_rng(0).uniform(-RANGE, RANGE, size=(elements, 1)).astype(np.float32)
    key = {"bench": "cosine", **setting.key, "elements": elements}
    yield Case({**key, "variant": "spu-cos"}, partial(measure_function, setting, "cos", _spu_cos, x))
    yield Case({**key, "variant": "spu-cos-sin"}, partial(measure_function, setting, "cos_sin", _spu_cos_sin, x))
    for bits in FACTOR_BITS:
        yield Case({**key, "variant": f"one-opening-{bits}"}, partial(_one_opening, setting, x, bits))


def _one_opening(setting: Setting, x: np.ndarray, factor_bits: int) -> dict[str, Any]:
    frequencies = np.array([[1 / (2 * np.pi)]], np.float32)
    declared = declare_correlation(x.shape, factor_bits=factor_bits)
    return measure_function(setting, "one_opening", cos_sin, x, public=frequencies, declared=declared)


def _spu_cos(x: Array, _public: Any, _correlations: Any) -> Array:
    return jnp.cos(x)


def _spu_cos_sin(x: Array, _public: Any, _correlations: Any) -> tuple[Array, Array]:
    return jnp.cos(x), jnp.sin(x)
