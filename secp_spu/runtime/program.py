"""Compiles a JAX function for SPU, and audits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import jax
import numpy as np
from spu import libspu
from spu.utils import frontend

from secp_spu.auditing import AuditReport, CorrelationInput, audit_program
from secp_spu.auditing.parser import Region, parse_program
from secp_spu.protocol import CosineCorrelation
from secp_spu.protocol.correlation import shape_struct
from secp_spu.protocol.waves import as_native_steps
from secp_spu.trees import Tree


@dataclass(frozen=True)
class Spec:
    """Shape, dtype and visibility of a program's input or output."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    secret: bool


@dataclass(frozen=True, repr=False)
class Program:
    """A compiled program whose openings are proven masked.

    Attributes:
        name: for logs and the ledger.
        code: what SPU executes (pphlo text).
        inputs: how many arrays it takes.
        outputs: specs of the results, as a pytree.
        audit: what was proven.
    """

    name: str
    code: bytes
    inputs: int
    outputs: Tree
    audit: AuditReport

    def __repr__(self) -> str:
        openings = len(self.audit.openings)
        return f"Program({self.name}, {self.inputs} inputs, {openings} opening{'' if openings == 1 else 's'})"


def compile_program(name: str, fn: Callable[..., Tree], inputs: tuple[Tree, ...], *, native: bool = True) -> Program:
    """Compile `fn` for SPU and prove its openings masked.

    Args:
        name: of the program.
        fn: a JAX function of `len(inputs)` pytrees.
        inputs: the same pytrees with a Spec at every leaf; a CosineCorrelation of Specs is what one run spends.
        native: it runs at parties that compute public steps themselves (`ComputeParty.execute`), and not on SPU alone.
    Raises: AuditError if an opening is not proven masked; ValueError for a function without results.
    """
    leaves, tree = jax.tree.flatten(inputs)
    names = [input_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    vis = [libspu.Visibility.VIS_SECRET if spec.secret else libspu.Visibility.VIS_PUBLIC for spec in leaves]

    def program(*flat: jax.Array) -> Tree:
        return fn(*jax.tree.unflatten(tree, flat))

    shapes = [shape_struct(spec.shape, spec.dtype) for spec in leaves]
    options = libspu.CompilerOptions()
    # Softmax divides once a row and multiplies, instead of dividing n times a row.
    options.enable_optimize_denominator_with_broadcast = True
    with as_native_steps() if native else nullcontext():
        executable, results = frontend.compile(
            frontend.Kind.JAX, program, shapes, {}, names, vis, _numbered, copts=options
        )
    if not jax.tree.leaves(results):
        raise ValueError(f"{name} returns no array, so there is nothing to compute: let it return its results")
    code = executable.code
    audit = audit_program(code.decode(), names, correlations=correlation_inputs(inputs), program=name)
    return Program(name, code, len(leaves), _output_specs(parse_program(code.decode()), results), audit)


def _numbered(results: Sequence[object]) -> list[str]:
    """Names that SPU's compiler gives them, which nobody uses."""
    return [str(number) for number in range(len(results))]


def correlation_inputs(inputs: tuple[Tree, ...]) -> list[CorrelationInput]:
    """Which of a program's arguments are a correlation's mask and factors, by their numbers: names may be alike."""
    leaves, tree = jax.tree.flatten(inputs)
    numbered = jax.tree.unflatten(tree, range(len(leaves)))
    nodes = jax.tree_util.tree_leaves_with_path(numbered, is_leaf=lambda node: isinstance(node, CosineCorrelation))
    return [
        CorrelationInput(input_name(path), node.mask, (node.cos, node.sin))
        for path, node in nodes
        if isinstance(node, CosineCorrelation)
    ]


def input_name(path: tuple[object, ...]) -> str:
    """A place in a pytree as words and dots, such as 3.attention.features.mask."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _output_specs(body: Region, results: Tree) -> Tree:
    """Shapes and types from JAX, visibility from the program."""
    leaves, tree = jax.tree.flatten(results)
    specs = [
        Spec(tuple(result.shape), np.dtype(result.dtype), value.kind.secret)
        for result, value in zip(leaves, body.returned, strict=True)
    ]
    return jax.tree.unflatten(tree, specs)
