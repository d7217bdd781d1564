"""The activations of feed-forward layers and heads, by name."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from secp_spu.model.config import ActivationKind
from secp_spu.protocol import to_fixed, to_float


def activation(kind: ActivationKind) -> Callable[[Array], Array]:
    """The function called `kind`, for arrays of any shape.

    Under MPC, bytes an element and sends (SEMI2K): "gelu" 1,951 and 181, "gelu_tanh" 396 and 45, "relu" 72 (60 under
    ABY3).
    """
    functions: dict[ActivationKind, Callable[[Array], Array]]
    functions = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": jax.nn.relu}
    return functions[kind]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def activate(kind: ActivationKind, x: Any) -> Any:
    """Apply to a plain array or a secret; under SPU with its own fixed point."""
    return to_fixed(activation(kind)(to_float(x)), x)
