"""The parts of a transformer layer as functions of their own: what is measured by operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from secp_spu.baseline.backpropagation import Segment
from secp_spu.bench.records import Record
from secp_spu.bench.scaling import stages
from secp_spu.bench.setting import OWNER, Setting, measure_function
from secp_spu.model import KINDS, Dense, Norm, TransformerConfig, projected_columns, token_shares
from secp_spu.model.activation import Activation
from secp_spu.model.attention.fourier import ANGLE_SCALE
from secp_spu.model.attention.random_features import INITIAL_LENGTH, PROJECTION_BITS
from secp_spu.model.layers import Residual
from secp_spu.model.precision import (
    DIVISOR_BITS,
    FACTOR_BITS,
    HIDDEN_BITS,
    OUTPUT_WEIGHT_BITS,
    SUM_BITS,
    SUMMARY_BITS,
    TOKEN_SHARE_BITS,
    WEIGHT_BITS,
)
from secp_spu.protocol import FRACTION_BITS, Number, lift, lower, rounded
from secp_spu.protocol.cosine import public_factor_bits
from secp_spu.protocol.fixed import DROP_BITS
from secp_spu.protocol.harmonics import RESULT_BITS
from secp_spu.protocol.reciprocal import FLOOR
from secp_spu.runtime import Owned, PlaintextRuntime, Runtime

Tree = Any

SHORTER = 0.9
"""Step by which random queries and keys are shortened."""

Gradients = Literal["weights", "inputs"] | None
"""Where a part is differentiated besides its forward pass: at weights and inputs, at inputs alone, or nowhere."""


@dataclass(frozen=True)
class Part:
    """A part of a layer on random inputs.

    Attributes:
        name: in tables.
        module: what computes it.
        params: secret weights.
        inputs: secret arrays.
        fixed: secret arrays that nothing is differentiated at.
        bits: fraction bits of inputs and fixed under MPC.
        public: arrays that everybody may know.
        declared: correlations that one run spends.
    """

    name: str
    module: nn.Module
    params: Tree
    inputs: tuple[np.ndarray, ...]
    fixed: tuple[np.ndarray, ...]
    bits: tuple[int, ...]
    public: Tree
    declared: Tree

    def measure(self, setting: Setting, gradients: Gradients = None) -> Record:
        """Its costs and error; with gradients those of the backward pass too, under the program's name."""
        if gradients:
            return self._measure_gradients(setting, weights=gradients == "weights")
        lowered = tuple(lower(a, b) for a, b in zip((*self.inputs, *self.fixed), self.bits, strict=True))
        count = len(self.inputs)
        given, function = (self.params, lowered[:count], lowered[count:]), partial(_apply, self.module, self.bits)
        static = setting.protocol == "semi2k"
        return measure_function(
            setting, self.name, function, given, public=self.public, declared=self.declared, static=static
        )

    def _measure_gradients(self, setting: Setting, *, weights: bool) -> Record:
        if self.declared:
            raise ValueError(f"{self.name} spends correlations: it is for forward passes")
        with PlaintextRuntime() as runtime:
            _, expected = self._differentiate(runtime, weights=weights)
        with setting.runtime() as runtime:
            costs, found = self._differentiate(runtime, weights=weights)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        return {**costs, "stages": stages(costs), "max_abs_error": max(float(np.abs(a - b).max()) for a, b in pairs)}

    def _differentiate(self, runtime: Runtime, *, weights: bool) -> tuple[Record, Tree]:
        segment = Segment(runtime, self.name, partial(_apply_to, self.module, weights=weights))
        with runtime.ledger.phase("setup"):
            params, inputs, fixed = runtime.share(Owned(OWNER, (self.params, self.inputs, self.fixed)))
            active, rest = ((inputs, params), (fixed,)) if weights else (inputs, (params, fixed))
        result, residuals = segment.forward(active, *rest)
        with runtime.ledger.phase("setup"):
            ones = jax.tree.map(lambda handle: np.ones(handle.spec.shape, np.float32), result)
            cotangent = runtime.share(Owned(OWNER, ones))
        gradient = segment.backward(residuals, cotangent)
        return runtime.ledger.report(), runtime.open_to(OWNER, gradient).value


class _Linear(nn.Module):
    """The four dense layers, each on an input of its own, and the ways around them."""

    config: TransformerConfig
    folded: bool

    @nn.compact
    def __call__(self, hidden: Number, attended: Number, inner: Number) -> tuple[Any, ...]:
        config, folded = self.config, self.folded
        return (
            Dense(sum(projected_columns(config, folded=folded)), folded)(hidden),
            Dense(config.width, folded)(attended),
            Dense(config.intermediate, folded)(hidden),
            Dense(config.width, folded, OUTPUT_WEIGHT_BITS)(inner),
            Residual(folded)(hidden),
            Residual(folded)(hidden),
        )


class _Norms(nn.Module):
    """The two layer norms, with what brings the sums in front of them to their bits."""

    config: TransformerConfig
    folded: bool

    @nn.compact
    def __call__(self, attended: Number, inner: Number, padding_mask: Number) -> tuple[Any, Any]:
        epsilon, folded = self.config.layer_norm_epsilon, self.folded
        keep = padding_mask if folded else None
        return Norm(epsilon, folded)(rounded(attended, SUM_BITS)), Norm(epsilon, folded)(rounded(inner, SUM_BITS), keep)


def layer_parts(config: TransformerConfig, batch: int, tokens: int, *, protocol: str, folded: bool) -> list[Part]:
    """Attention, activation, layer norms and dense layers of one encoder layer.

    Args:
        config: of the encoder.
        batch, tokens: how many sequences, and how long.
        protocol: under which they run.
        folded: as forward passes have them; else raw, as backpropagation does.
    """
    rng = np.random.default_rng(0)
    hidden, attended = (_normal(rng, batch, tokens, config.width) for _ in range(2))
    inner = _normal(rng, batch, tokens, config.intermediate)
    mask = np.ones((batch, tokens), np.float32)
    of_activation = Activation(config, folded)
    bits = activation_bits(config)
    return [
        attention_part(config, batch, tokens, protocol=protocol, folded=folded),
        _part(config.activation, of_activation, (inner, PROJECTION_BITS)),
        _part(
            "layer norm",
            _Norms(config, folded),
            (attended, attended_bits(config) + WEIGHT_BITS),
            (hidden, bits + OUTPUT_WEIGHT_BITS),
            fixed=((mask, FRACTION_BITS),),
        ),
        _part(
            "linear",
            _Linear(config, folded),
            (hidden, HIDDEN_BITS),
            (attended, attended_bits(config)),
            (inner, bits),
        ),
    ]


def attention_part(config: TransformerConfig, batch: int, tokens: int, *, protocol: str, folded: bool) -> Part:
    """From queries, keys and values to the heads' output."""
    rng = np.random.default_rng(1)
    columns = projected_columns(config, folded=folded)
    sizes = [(batch, config.heads, tokens, count // config.heads) for count in columns]
    heads = [(_normal(rng, *size), PROJECTION_BITS) for size in sizes]
    module = KINDS[config.attention](config, 0, folded, protocol == "semi2k")
    mask = np.ones((batch, tokens), np.float32)
    if config.attention != "fourier":
        return _part(config.attention, module, *heads, fixed=((mask, FRACTION_BITS),))
    shares = np.asarray(token_shares(mask, config.features))
    if folded:  # as angles
        heads[:2] = [(array * np.float32(ANGLE_SCALE / (2 * math.pi)), bits) for array, bits in heads[:2]]
        length = _admissible_length(module, *(array for array, _ in heads), shares)
        heads[:2] = [(array * np.float32(length), bits) for array, bits in heads[:2]]
    return _part(config.attention, module, *heads, fixed=((shares, TOKEN_SHARE_BITS),))


def _admissible_length(module: nn.Module, query: np.ndarray, key: np.ndarray, *rest: np.ndarray) -> float:
    """Of queries and keys: what adaptation starts with, or less until no mean kernel is below the reciprocal's floor.

    Adaptation sees to that; of random inputs with few features some fall below, where small errors grow.
    """
    length = INITIAL_LENGTH
    while True:
        _, found = module.apply({}, query * length, key * length, *rest, mutable=["intermediates"])
        if found["intermediates"]["mean_kernel"][0].min() >= FLOOR:
            return length
        length *= SHORTER


def attended_bits(config: TransformerConfig) -> int:
    """Fraction bits of what attention hands on."""
    if config.attention == "softmax":
        return FRACTION_BITS
    features = FACTOR_BITS + public_factor_bits(FACTOR_BITS)
    return features + SUMMARY_BITS + math.ceil(math.log2(config.features)) + DIVISOR_BITS - FRACTION_BITS


def activation_bits(config: TransformerConfig) -> int:
    """Fraction bits of what the activation hands on."""
    kinds = {"relu": PROJECTION_BITS, "series": RESULT_BITS, "quadratic": 2 * PROJECTION_BITS - DROP_BITS}
    return kinds.get(config.activation, FRACTION_BITS)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


Input = tuple[np.ndarray, int]
"""An array, and the fraction bits that it has under MPC."""


def _part(name: str, module: nn.Module, *inputs: Input, fixed: tuple[Input, ...] = ()) -> Part:
    arrays, bits = zip(*inputs, *fixed, strict=True)
    variables = jax.device_get(module.init(jax.random.key(0), *(array[:1] for array in arrays)))
    declared = jax.eval_shape(module.init, jax.random.key(0), *arrays).get("correlations", ())
    given, rest = arrays[: len(inputs)], arrays[len(inputs) :]
    return Part(name, module, variables.get("params", {}), given, rest, bits, variables.get("public", {}), declared)


def _apply(
    module: nn.Module,
    bits: Sequence[int],
    given: tuple[Tree, tuple, tuple],
    public: Tree,
    correlations: Tree,
    *,
    secure: bool,
) -> Any:
    params, inputs, fixed = given
    spent = {"correlations": correlations} if correlations else {}
    lifted = (lift(array, b, secure=secure) for array, b in zip((*inputs, *fixed), bits, strict=True))
    return module.apply({"params": params, "public": public, **spent}, *lifted)


def _apply_to(module: nn.Module, active: Tree, *rest: Tree, weights: bool) -> Any:
    (inputs, params), (fixed,) = (active, rest) if weights else ((active, rest[0]), rest[1:])
    return module.apply({"params": params}, *inputs, *fixed)
