"""Functions that spend correlations without naming them: a runtime's `jit` finds out what they spend, and gives it.

`cos_sin`, `series_gelu`, `series_reciprocal` and the modules of `secp_spu.model` ask `spend` for a correlation where
their caller gives none. In plain JAX there is none, and they compute in plaintext. While a `jit` looks for what a
function spends, `spend` notes what is asked for; while the function is compiled, `spend` hands out the correlations
that the program is given, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

from secp_spu.protocol.correlation import CosineCorrelation, is_declared_by, shape_struct
from secp_spu.protocol.fixed import Fixed, Number, to_float
from secp_spu.trees import Tree

Declare = Callable[[], CosineCorrelation]


class _Source(Protocol):
    """Where `spend` gets correlations while a function is traced."""

    def take(self, declare: Declare) -> CosineCorrelation:
        """The next one."""


_SOURCE: ContextVar[tuple[_Source, object] | None] = ContextVar("source", default=None)
"""The source, and JAX's trace in which it may be asked; None outside `jit`."""


def spend(declare: Declare, value: Number | None = None) -> CosineCorrelation | None:
    """A correlation for one opening, inside a function that a runtime's `jit` traces; None in plain JAX.

    Args:
        declare: what it is, see `declare_correlation`.
        value: what it is to mask, if that is known: an array of numbers that are known now needs no mask.
    Raises: ValueError inside a function that JAX transforms by itself, such as the body of `lax.scan`: it may run more
        than once, and would use one mask each time.
    """
    current = _SOURCE.get()
    array = value.ring if isinstance(value, Fixed) else value
    if current is None or (value is not None and not isinstance(array, Tracer)):
        return None
    source, trace = current
    if _trace() is not trace or (value is not None and _trace_of(array) is not trace):
        raise ValueError(
            "a correlation is wanted inside a function that JAX transforms by itself (jax.jit, jax.vmap, jax.grad, "
            "lax.scan, lax.map, lax.cond or a loop), where its mask might be used more than once: call the secure "
            "function outside of it"
        )
    return source.take(declare)


class SpendingFunction:
    """A JAX function as a program that is given what it spends.

    Args:
        fn: gives the same for the same arguments.
    Raises: TypeError for what is no function.
    """

    def __init__(self, fn: Callable[..., Tree]):
        if not callable(fn):
            raise TypeError(f"`fn` is a {type(fn).__name__}, but must be a JAX function")
        self._fn = fn
        self._declared: dict[tuple[object, ...], tuple[CosineCorrelation, ...]] = {}

    def declared(self, args: tuple[Tree, ...]) -> tuple[CosineCorrelation, ...]:
        """What one call spends, in order, as shapes; `fn` is traced for it once for each shape of its arguments.

        Args:
            args: of the call, pytrees with anything that has a shape and a dtype at every leaf.
        """
        leaves, tree = jax.tree.flatten(args)
        shapes = [shape_struct(leaf.shape, leaf.dtype) for leaf in leaves]
        key = tree, tuple(shapes)
        if key not in self._declared:
            source = _Noting()

            def traced(*args: Tree) -> Tree:
                with _spending_from(source):
                    return self._fn(*args)

            jax.eval_shape(traced, *jax.tree.unflatten(tree, shapes))
            self._declared[key] = tuple(source.declared)
        return self._declared[key]

    def __call__(self, *args: Tree) -> Tree:
        """Compute `fn`. Only for programs compiled by SPU.

        Args:
            args: of `fn`; then what `declared` says, fresh.
        Returns: the results, `Fixed` numbers as plain ones.
        """
        *rest, given = args
        source = _Giving(given)
        with _spending_from(source):
            results = self._fn(*rest)
        source.require_all_taken()
        return jax.tree.map(to_float, results, is_leaf=lambda node: isinstance(node, Fixed))


class _Noting:
    """Notes what is asked for, and gives zeros, which no program is compiled with."""

    def __init__(self) -> None:
        self.declared: list[CosineCorrelation] = []

    def take(self, declare: Declare) -> CosineCorrelation:
        self.declared.append(jax.eval_shape(declare))
        return declare()


class _Giving:
    """Gives a program's own correlations, in the order in which they were declared."""

    def __init__(self, given: Sequence[CosineCorrelation]):
        self._rest = list(given)

    def take(self, declare: Declare) -> CosineCorrelation:
        if not self._rest or not is_declared_by(declare, self._rest[0]):
            raise ValueError(_CHANGED)
        return self._rest.pop(0)

    def require_all_taken(self) -> None:
        if self._rest:
            raise ValueError(_CHANGED)


_CHANGED = (
    "the function spends other correlations than when it was traced before: what it computes may depend on nothing but "
    "its arguments"
)


@contextmanager
def _spending_from(source: _Source) -> Iterator[None]:
    trace = _trace()
    if trace is None:  # then every place would look like this one
        raise RuntimeError("this version of JAX does not tell in which function it is: install the locked one")
    token = _SOURCE.set((source, trace))
    try:
        yield
    finally:
        _SOURCE.reset(token)


def _trace() -> object:
    """JAX's innermost trace, by which new arrays are recorded: another one inside the body of a loop or `jax.jit`."""
    return _trace_of(jnp.zeros(()))


def _trace_of(array: object) -> object:
    """The trace that an array is of; before JAX 0.4.36 a trace has a `main`, which is what stays the same."""
    trace = getattr(array, "_trace", None)
    main = getattr(trace, "main", None)
    return trace if main is None else main
