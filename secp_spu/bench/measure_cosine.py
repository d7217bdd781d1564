"""Cosine and sine under MPC: SPU's own, and those of one opening."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from secp_spu.bench.mpc_setting import MpcSetting, measure_function
from secp_spu.bench.records import Case, Record
from secp_spu.protocol import CosineCorrelation, Number, cos_sin, declare_correlation
from secp_spu.trees import Tree

RANGE = 8.0
"""Angles are drawn from -RANGE to RANGE radians: several periods."""

ELEMENT_BYTES = 1400
"""Bytes of a party's memory that an angle takes: 1,320 were seen with SPU's own cosine under semi2k (SPU 0.9.5)."""


def cosine_cases(setting: MpcSetting, elements: int) -> Iterator[Case]:
    """SPU's cosine alone, its cosine and sine, and the pair by one opening."""
    key = {"bench": "cosine", **setting.key, "elements": elements}
    variants = {"spu-cos": _own_cosine, "spu-cos-sin": _own_pair, "one-opening": _one_opening}
    for variant, measure in variants.items():
        memory = setting.parties * elements * ELEMENT_BYTES
        yield Case({**key, "variant": variant}, partial(measure, setting, elements), memory_bytes=memory)


def _angles(elements: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-RANGE, RANGE, size=(elements, 1)).astype(np.float32)


def _own_cosine(setting: MpcSetting, elements: int) -> Record:
    return measure_function(setting, "cos", _spu_cos, _angles(elements))


def _own_pair(setting: MpcSetting, elements: int) -> Record:
    return measure_function(setting, "cos_sin", _spu_cos_sin, _angles(elements))


def _one_opening(setting: MpcSetting, elements: int) -> Record:
    x = _angles(elements)
    frequencies = np.array([[1 / (2 * np.pi)]], np.float32)
    declared = declare_correlation(x.shape)
    return measure_function(setting, "one_opening", _all_bits, x, public=frequencies, declared=declared)


def _all_bits(
    x: Array, frequencies: Array, correlation: CosineCorrelation | None, **_secure: bool
) -> tuple[Number, Number]:
    return cos_sin(x, frequencies, correlation)


def _spu_cos(x: Array, _public: Tree, _correlations: Tree, **_secure: bool) -> Array:
    return jnp.cos(x)


def _spu_cos_sin(x: Array, _public: Tree, _correlations: Tree, **_secure: bool) -> tuple[Array, Array]:
    return jnp.cos(x), jnp.sin(x)
