"""Activations: a file for each, the same module in plaintext and under MPC.

A new one is a file with a subclass of `Activation` and a line in `ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from secp_spu.model.activation.activation import Activation
from secp_spu.model.activation.functions import Gelu, GeluTanh, Relu
from secp_spu.model.activation.quadratic import Quadratic
from secp_spu.model.activation.series import Series
from secp_spu.model.transformer_config import ActivationKind, TransformerConfig

ACTIVATIONS: dict[ActivationKind, type[Activation]] = {
    "gelu": Gelu,
    "gelu_tanh": GeluTanh,
    "relu": Relu,
    "series": Series,
    "quadratic": Quadratic,
}
"""Activations by their names in configurations."""


def activation_class(config: TransformerConfig) -> type[Activation]:
    """The class of a model's activation.

    Raises: ValueError for an activation that is not registered.
    """
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"activation is {config.activation!r}, allowed: {', '.join(map(repr, ACTIVATIONS))}")
    return ACTIVATIONS[config.activation]


def activation_function(kind: ActivationKind) -> Callable[[Array], Array]:
    """SPU's own function of this name, for arrays of any shape.

    Raises: ValueError for an activation that is not one of SPU's own functions.
    """
    function = ACTIVATIONS[kind].function if kind in ACTIVATIONS else None
    if function is None:
        functions = ", ".join(repr(name) for name in ACTIVATIONS if is_function(name))
        raise ValueError(f"activation is {kind!r}, which is no function of SPU's own; these are {functions}")
    return function


def is_function(kind: ActivationKind) -> bool:
    """Whether an activation is one of SPU's own functions; heads have one of these."""
    return kind in ACTIVATIONS and ACTIVATIONS[kind].function is not None


def learned_activations() -> list[ActivationKind]:
    """The activations that a checkpoint with GELU can be adapted to: those that are no functions of SPU's own."""
    return [name for name in ACTIVATIONS if not is_function(name)]


def is_gelu(kind: ActivationKind) -> bool:
    """Whether an activation is GELU, or off by 5e-4 at most, so that others may replace it."""
    return is_function(kind) and ACTIVATIONS[kind].gelu_head is not None


__all__ = [
    "ACTIVATIONS",
    "Activation",
    "activation_class",
    "activation_function",
    "is_function",
    "is_gelu",
    "learned_activations",
]
