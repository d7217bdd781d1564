"""A JAX function and the shapes of its inputs in, a compiled and audited SPU program out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from spu import libspu
from spu.utils import frontend

from secp_spu.protocol import AuditReport, CosineCorrelation, audit_program

Tree = Any
"""A JAX pytree."""


@dataclass(frozen=True)
class Spec:
    """Shape, dtype and visibility of a program's input or output."""

    shape: tuple[int, ...]
    dtype: np.dtype
    secret: bool


@dataclass(frozen=True)
class Program:
    """A compiled program whose openings are proven masked.

    Attributes:
        name: for logs and the ledger.
        code: what SPU executes (pphlo text).
        outputs: specs of the results, as a pytree.
        audit: what was proven.
    """

    name: str
    code: bytes
    outputs: Tree
    audit: AuditReport


def compile_program(name: str, fn: Callable, inputs: tuple) -> Program:
    """Compile `fn` for SPU and prove its openings masked.

    Args:
        name: of the program.
        fn: a JAX function of `len(inputs)` pytrees.
        inputs: the same pytrees with a Spec at every leaf; a CosineCorrelation of Specs is what one run spends.
    Raises: AuditError if an opening is not proven masked.
    """
    leaves, tree = jax.tree.flatten(inputs)
    names = [input_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    vis = [libspu.Visibility.VIS_SECRET if spec.secret else libspu.Visibility.VIS_PUBLIC for spec in leaves]

    def program(*flat):
        return fn(*jax.tree.unflatten(tree, flat))

    shapes = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in leaves]
    options = libspu.CompilerOptions()
    # Softmax divides once a row and multiplies, instead of dividing n times a row.
    options.enable_optimize_denominator_with_broadcast = True
    executable, results = frontend.compile(
        frontend.Kind.JAX, program, shapes, {}, names, vis, lambda out: [str(i) for i in range(len(out))], copts=options
    )
    code = executable.code
    masks, factors = _correlation_inputs(inputs)
    audit = audit_program(code.decode(), names, masks=masks, factors=factors, program=name)
    return Program(name, code, _output_specs(code.decode(), results), audit)


def _correlation_inputs(inputs: tuple) -> tuple[dict[str, str], dict[str, str]]:
    """Input name -> correlation, of all masks and of all factors."""
    masks: dict[str, str] = {}
    factors: dict[str, str] = {}
    with_path = jax.tree_util.tree_leaves_with_path(inputs, is_leaf=lambda node: isinstance(node, CosineCorrelation))
    for path, node in with_path:
        if isinstance(node, CosineCorrelation):
            correlation = input_name(path)
            masks[f"{correlation}.mask"] = correlation
            factors |= {f"{correlation}.cos": correlation, f"{correlation}.sin": correlation}
    return masks, factors


def input_name(path: tuple) -> str:
    """A place in a pytree as words and dots, such as 3.attention.features.mask."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _output_specs(code: str, results: Tree) -> Tree:
    """Shapes from JAX, visibility from the types that the program returns."""
    returned = re.findall(r"^    return [^:]*: (.*)$", code, re.MULTILINE)
    kinds = re.findall(r"tensor<[^>]*>+", returned[-1]) if returned else []
    leaves, tree = jax.tree.flatten(results)
    if len(kinds) != len(leaves):
        raise ValueError(f"the program returns {len(leaves)} arrays, but its text names {len(kinds)}")
    specs = [Spec(tuple(r.shape), np.dtype(r.dtype), "secret" in k) for r, k in zip(leaves, kinds, strict=True)]
    return jax.tree.unflatten(tree, specs)
