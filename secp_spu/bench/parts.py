"""The parts of a transformer layer as functions of their own: what is measured by operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.baseline.backpropagation import Segment
from secp_spu.bench.mpc_setting import OWNER, MpcSetting, measure_function
from secp_spu.bench.records import Record
from secp_spu.bench.scaling import stages
from secp_spu.model import Dense, Norm, Setting, TransformerConfig, activation_class, apply_module, attention_class
from secp_spu.model.attention.fourier import ANGLE_SCALE, FourierAttention
from secp_spu.model.attention.random_features import INITIAL_LENGTH, PROJECTION_BITS
from secp_spu.model.layers import Residual
from secp_spu.model.precision import (
    HIDDEN_BITS,
    OUTPUT_WEIGHT_BITS,
    SUM_BITS,
    WEIGHT_BITS,
)
from secp_spu.protocol import FRACTION_BITS, Number, from_storage, rounded, to_storage
from secp_spu.protocol.reciprocal import FLOOR
from secp_spu.runtime import Owned, PlaintextRuntime, Runtime
from secp_spu.trees import Floats, Tree

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
    inputs: tuple[Floats, ...]
    fixed: tuple[Floats, ...]
    bits: tuple[int, ...]
    public: Tree
    declared: Tree

    def measure(self, setting: MpcSetting, gradients: Gradients = None) -> Record:
        """Its costs and error; with gradients those of the backward pass too, under the program's name."""
        if gradients:
            return self._measure_gradients(setting, weights=gradients == "weights")
        stored = tuple(to_storage(a, b) for a, b in zip((*self.inputs, *self.fixed), self.bits, strict=True))
        count = len(self.inputs)
        given, function = (self.params, stored[:count], stored[count:]), partial(_apply, self.module, self.bits)
        static = setting.protocol == "semi2k"
        return measure_function(
            setting, self.name, function, given, public=self.public, declared=self.declared, static=static
        )

    def _measure_gradients(self, setting: MpcSetting, *, weights: bool) -> Record:
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
    setting: Setting

    @nn.compact
    def __call__(self, hidden: Number, attended: Number, inner: Number) -> tuple[Number, ...]:
        config, setting = self.config, self.setting
        columns = attention_class(config).projected_columns(config, setting)
        return (
            Dense(sum(columns), setting)(hidden),
            Dense(config.width, setting)(attended),
            Dense(config.intermediate, setting)(hidden),
            Dense(config.width, setting, OUTPUT_WEIGHT_BITS)(inner),
            Residual(setting)(hidden),
            Residual(setting)(hidden),
        )


class _Norms(nn.Module):
    """The two layer norms, with what brings the sums in front of them to their bits."""

    config: TransformerConfig
    setting: Setting

    @nn.compact
    def __call__(self, attended: Number, inner: Number, padding_mask: Number) -> tuple[Number, Number]:
        epsilon, setting = self.config.layer_norm_epsilon, self.setting
        keep = padding_mask if setting.folded else None
        first = Norm(epsilon, setting)(rounded(attended, SUM_BITS))
        return first, Norm(epsilon, setting)(rounded(inner, SUM_BITS), keep)


def layer_parts(config: TransformerConfig, batch: int, tokens: int, *, protocol: str, folded: bool) -> list[Part]:
    """Attention, activation, layer norms and dense layers of one encoder layer.

    Args:
        config: of the transformer.
        batch, tokens: how many sequences, and how long.
        protocol: under which they run.
        folded: as forward passes have them; else raw, as backpropagation does.
    """
    rng = np.random.default_rng(0)
    hidden, attended = (_normal(rng, batch, tokens, config.width) for _ in range(2))
    inner = _normal(rng, batch, tokens, config.intermediate)
    mask = np.ones((batch, tokens), np.float32)
    setting, kind = _setting(protocol, folded=folded), activation_class(config)
    bits, attended_bits = kind.result_bits(PROJECTION_BITS), attention_class(config).result_bits(config)
    return [
        attention_part(config, batch, tokens, protocol=protocol, folded=folded),
        _part(config.activation, kind(config, setting), (inner, PROJECTION_BITS)),
        _part(
            "layer norm",
            _Norms(config, setting),
            (attended, attended_bits + WEIGHT_BITS),
            (hidden, bits + OUTPUT_WEIGHT_BITS),
            fixed=((mask, FRACTION_BITS),),
        ),
        _part(
            "linear",
            _Linear(config, setting),
            (hidden, HIDDEN_BITS),
            (attended, attended_bits),
            (inner, bits),
        ),
    ]


def attention_part(config: TransformerConfig, batch: int, tokens: int, *, protocol: str, folded: bool) -> Part:
    """From queries, keys and values to the heads' output."""
    rng = np.random.default_rng(1)
    kind, setting = attention_class(config), _setting(protocol, folded=folded)
    columns = kind.projected_columns(config, setting)
    sizes = [(batch, config.heads, tokens, count // config.heads) for count in columns]
    heads = [(_normal(rng, *size), PROJECTION_BITS) for size in sizes]
    module = kind(config, 0, setting)
    weights = np.asarray(kind.token_weights(jnp.ones((batch, tokens)), config))
    if folded and issubclass(kind, FourierAttention):  # as angles
        heads[:2] = [(array * np.float32(ANGLE_SCALE / (2 * math.pi)), bits) for array, bits in heads[:2]]
        length = _admissible_length(module, *(array for array, _ in heads), weights)
        heads[:2] = [(array * np.float32(length), bits) for array, bits in heads[:2]]
    return _part(config.attention, module, *heads, fixed=((weights, kind.weight_bits or FRACTION_BITS),))


def _setting(protocol: str, *, folded: bool) -> Setting:
    return Setting(folded=folded, opens_operands=protocol == "semi2k")


def _admissible_length(module: nn.Module, query: Floats, key: Floats, *rest: Floats) -> float:
    """Length of queries and keys: adaptation's first one, or shorter until no mean kernel is below the floor.

    Adaptation sees to that; of random inputs with few features some fall below, where small errors grow.
    """
    length = INITIAL_LENGTH
    while True:
        _, found = module.apply({}, query * length, key * length, *rest, mutable=["intermediates"])
        if found["intermediates"]["mean_kernel"][0].min() >= FLOOR:
            return length
        length *= SHORTER


def _normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.normal(size=shape).astype(np.float32)


Input = tuple[Floats, int]
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
    given: tuple[Tree, tuple[Array, ...], tuple[Array, ...]],
    public: Tree,
    correlations: Tree,
    *,
    secure: bool,
) -> Tree:
    params, inputs, fixed = given
    spent = {"correlations": correlations} if correlations else {}
    numbers = (from_storage(array, b, secure=secure) for array, b in zip((*inputs, *fixed), bits, strict=True))
    return apply_module(module, {"params": params, "public": public, **spent}, *numbers)


def _apply_to(module: nn.Module, active: Tree, *rest: Tree, weights: bool) -> Tree:
    (inputs, params), (fixed,) = (active, rest) if weights else ((active, rest[0]), rest[1:])
    return apply_module(module, {"params": params}, *inputs, *fixed)
