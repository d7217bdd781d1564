"""The parts of a transformer layer as functions of their own: what is measured by operation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from secp_spu.baseline.backpropagation import Segment
from secp_spu.bench.records import Record
from secp_spu.bench.scaling import stages
from secp_spu.bench.setting import OWNER, Setting, measure_function
from secp_spu.model import EncoderConfig, RandomFeatureAttention, SoftmaxAttention
from secp_spu.model.activation import activation
from secp_spu.model.layers import Norm
from secp_spu.runtime import Owned, PlaintextRuntime, Runtime

Tree = Any


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
        public: arrays that everybody may know.
        declared: correlations that one run spends.
    """

    name: str
    module: nn.Module
    params: Tree
    inputs: tuple[np.ndarray, ...]
    fixed: tuple[np.ndarray, ...]
    public: Tree
    declared: Tree

    def measure(self, setting: Setting, gradients: Gradients = None) -> Record:
        """Its costs and error; with gradients those of the backward pass too, under the program's name."""
        if gradients:
            return self._measure_gradients(setting, weights=gradients == "weights")
        given, function = (self.params, self.inputs, self.fixed), partial(_apply, self.module)
        return measure_function(setting, self.name, function, given, public=self.public, declared=self.declared)

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
    """The four dense layers, each on an input of its own."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array, inner: Array) -> tuple[Array, ...]:
        config = self.config
        return (
            nn.Dense(3 * config.width)(hidden),
            nn.Dense(config.width)(hidden),
            nn.Dense(config.intermediate)(hidden),
            nn.Dense(config.width)(inner),
        )


class _Norms(nn.Module):
    """The two layer norms."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        return Norm(self.config.layer_norm_epsilon)(hidden), Norm(self.config.layer_norm_epsilon)(hidden)


class _Activation(nn.Module):
    config: EncoderConfig

    def __call__(self, inner: Array) -> Array:
        return activation(self.config.activation)(inner)


def layer_parts(config: EncoderConfig, batch: int, tokens: int) -> list[Part]:
    """Attention, activation, layer norms and dense layers of one encoder layer; only residual sums are left out."""
    rng = np.random.default_rng(0)
    hidden, inner = (_normal(rng, batch, tokens, n) for n in (config.width, config.intermediate))
    return [
        attention_part(config, batch, tokens),
        _part(config.activation, _Activation(config), inner),
        _part("layer norm", _Norms(config), hidden),
        _part("linear", _Linear(config), hidden, inner),
    ]


def attention_part(config: EncoderConfig, batch: int, tokens: int) -> Part:
    """From queries, keys and values to the heads' output."""
    rng = np.random.default_rng(1)
    heads = [_normal(rng, batch, config.heads, tokens, config.head_dim) for _ in range(3)]
    module = (RandomFeatureAttention if config.attention == "rfa" else SoftmaxAttention)(config)
    return _part(config.attention, module, *heads, fixed=(np.ones((batch, tokens), np.float32),))


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _part(name: str, module: nn.Module, *inputs: np.ndarray, fixed: tuple[np.ndarray, ...] = ()) -> Part:
    few = (array[:1] for array in (*inputs, *fixed))
    variables = jax.device_get(module.init(jax.random.key(0), *few))
    declared = jax.eval_shape(module.init, jax.random.key(0), *inputs, *fixed).get("correlations", ())
    return Part(name, module, variables.get("params", {}), inputs, fixed, variables.get("public", {}), declared)


def _apply(module: nn.Module, given: tuple[Tree, tuple, tuple], public: Tree, correlations: Tree) -> Any:
    params, inputs, fixed = given
    spent = {"correlations": correlations} if correlations else {}
    return module.apply({"params": params, "public": public, **spent}, *inputs, *fixed)


def _apply_to(module: nn.Module, active: Tree, *rest: Tree, weights: bool) -> Any:
    (inputs, params), (fixed,) = (active, rest) if weights else ((active, rest[0]), rest[1:])
    return module.apply({"params": params}, *inputs, *fixed)
