"""Adam on secret weights and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from secp_spu.runtime import Runtime, Stored
from secp_spu.trees import Tree

LOSS_SCALE = 64.0
"""The loss is differentiated times this. Adam divides it out again, but in fixed point it decides what survives: v is
g * g, and SPU's rsqrt is good from 2**-18 to 2**17, so |g| may be 2**-9 to 2**8, which is 3e-5 to 4 of the loss."""

EPSILON = 2.0**-12
"""Added to v before the root: gradients far below 2**-6 / LOSS_SCALE = 2.4e-4 make small steps, not steps of noise."""

ELEMENTS = 2**22
"""Updated by one program at most: rsqrt keeps some 20 arrays of that size."""


@dataclass
class Moments:
    """Running means of g and g * g, bias-corrected; leaves like the weights'. Secret after the first step."""

    first: list[Stored]
    second: list[Stored]
    steps: int = 0


class Adam:
    """Adam, its moments kept bias-corrected, which is the same and loses no small numbers in fixed point.

        c1 = (1 - b1) / (1 - b1^t),  m = m + c1 (g - m)
        c2 = (1 - b2) / (1 - b2^t),  v = v + c2 (g^2 - v)
        w  = w - rate m / sqrt(v + epsilon)

    Weights of a call are concatenated, so that the rounds of rsqrt are taken once for all of them.

    Args:
        runtime: where the weights are.
        rate: the learning rate.
        b1, b2: decay of the moments.
    Source: Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1, with epsilon below the root.
    """

    def __init__(self, runtime: Runtime, rate: float, b1: float = 0.9, b2: float = 0.999):
        self._runtime, self._decays = runtime, (b1, b2)
        self._update = partial(_update, rate)

    def begin(self, weights: Tree) -> Moments:
        """Moments for these weights; nothing is sent for them."""
        zeros = [np.zeros(leaf.spec.shape, np.float32) for leaf in jax.tree.leaves(weights)]
        return Moments(self._runtime.publish(zeros), self._runtime.publish(zeros))

    def step(self, name: str, weights: Tree, gradients: Tree, moments: Moments) -> Tree:
        """New weights; the old ones, the gradients and the old moments are freed.

        Args:
            name: of the program.
            weights: pytree of handles.
            gradients: of LOSS_SCALE * loss, the same pytree.
            moments: of these weights, brought up to date.
        """
        runtime, tree = self._runtime, jax.tree.structure(weights)
        moments.steps += 1
        factors = runtime.publish([np.float32((1 - b) / (1 - b**moments.steps)) for b in self._decays])
        leaves = [jax.tree.leaves(weights), jax.tree.leaves(gradients), moments.first, moments.second]
        new: list[list[Stored]] = [[], [], []]
        for part in _parts(leaves[0]):
            old = [column[part] for column in leaves]
            for column, made in zip(new, runtime.run(name, self._update, *old, factors), strict=True):
                column += made
            runtime.free(old)
        runtime.free(factors)
        moments.first, moments.second = new[1:]
        return jax.tree.unflatten(tree, new[0])


def _parts(leaves: list[Stored]) -> Iterator[slice]:
    """Runs of leaves with ELEMENTS elements or less, or a single larger one."""
    start, size = 0, 0
    for i, leaf in enumerate(leaves):
        elements = int(np.prod(leaf.spec.shape))
        if i > start and size + elements > ELEMENTS:
            yield slice(start, i)
            start, size = i, 0
        size += elements
    yield slice(start, len(leaves))


def _update(
    rate: float,
    weights: list[Array],
    gradients: list[Array],
    first: list[Array],
    second: list[Array],
    factors: list[Array],
) -> tuple[list[Array], list[Array], list[Array]]:
    ravel: Callable[[Tree], tuple[Array, Callable[[Array], list[Array]]]] = ravel_pytree  # JAX has no types for it
    w, back = ravel(weights)
    g, m, v = (ravel(leaves)[0] for leaves in (gradients, first, second))
    m = m + factors[0] * (g - m)
    v = v + factors[1] * (g * g - v)
    w = w - rate * (m * jax.lax.rsqrt(jnp.asarray(v + EPSILON)))
    return back(w), back(m), back(v)
