"""Random programs: legal ones must pass, and legal ones in which one leak is planted must not.

A program computes random secrets from its inputs, opens some behind masks in random ways, and computes on with what
the openings gave. A leak of a random kind is planted before, between or behind that. Seeds are fixed: a failure names
its own.
"""

import os
import random
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from spu.experimental import make_cached_var, reveal

from secp_spu.auditing import AuditError
from secp_spu.protocol import CosineCorrelation, declare_correlation, from_ring, open_masked, to_ring
from secp_spu.runtime import Spec, compile_program

FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int32)
SHAPE = (3, 5)
PROGRAMS = int(os.environ.get("SECP_SPU_FUZZ", "50"))
"""Programs that each of 20 tests makes; half of them leak."""


def spec(*shape, dtype=FLOAT, secret=True):
    return Spec(shape, dtype, secret)


def correlation():
    declared = declare_correlation(SHAPE)
    return CosineCorrelation(
        *(spec(*leaf.shape, dtype=INTEGER) for leaf in (declared.mask, declared.cos, declared.sin))
    )


def inputs():
    """By name; `c0.mask` and `first.second` are names of masks too, if one goes by how they are printed."""
    return {
        "x": spec(*SHAPE),
        "y": spec(*SHAPE),
        "public": spec(*SHAPE, secret=False),
        "row": spec(1, 5),
        "index": spec(dtype=INTEGER),
        "c0": correlation(),
        "c1": correlation(),
        "c2": correlation(),
        "c0.mask": spec(*SHAPE, dtype=INTEGER),
        "spare": correlation(),
    }


class Program:
    """A random program, drawn while JAX traces it."""

    def __init__(self, seed, leak=None):
        self._seed, self._leak = seed, leak
        self.openings = 0

    def __call__(self, given):
        self.openings, draw = 0, random.Random(self._seed)
        values, results = [given["x"], given["y"]], []
        places = [draw.randrange(4)]
        for step, name in enumerate(draw.sample(["c0", "c1", "c2"], 3)):
            for _ in range(draw.randrange(3)):
                values.append(computed(draw, values, given["public"]))
            if self._leak and step in places:
                results.append(LEAKS[self._leak](draw, given, draw.choice(values)))
            if draw.random() < 0.7:
                delta, rotated = opened(draw, draw.choice(values), given[name])
                self.openings += 1
                values.append(rotated)
                results.append(delta)
        if self._leak and places == [3]:
            results.append(LEAKS[self._leak](draw, given, draw.choice(values)))
        return results, draw.sample(values, 2)


def computed(draw, values, public):
    """A legal step: a secret of the same shape."""
    a, b = draw.choice(values), draw.choice(values)
    return draw.choice(
        [
            lambda: a + b,
            lambda: a * b,
            lambda: a - public,
            lambda: a * public,
            lambda: jnp.where(a > b, a, -b),
            lambda: jnp.maximum(a, 0) + jnp.minimum(b, 1),
            lambda: (a.T @ b)[:3] + 1.0,
            lambda: jnp.concatenate([a[:1], b[1:]]),
            lambda: a[::-1].reshape(5, 3).T,
            lambda: a / (1 + b * b),
            lambda: jnp.exp(a - a.max(1, keepdims=True)),
            lambda: a - b.sum(0),
            lambda: jnp.pad(a[:, :3], ((0, 0), (1, 1))),
            lambda: lax.rsqrt(1 + a * a) * jnp.tanh(b),
            lambda: lax.fori_loop(0, 3, lambda _, v: v * 0.5 + b, a),
            lambda: lax.cond(public[0, 0] > 0, lambda v: v, lambda v: -v, a),
            lambda: lax.dynamic_update_slice(a, b[:1], (1, 0)),
            lambda: a[jnp.array([2, 0, 1])],
        ]
    )()


def opened(draw, value, c):
    """v - t, opened in a random form, and a product of what that gives with a factor."""
    ring = to_ring(value)
    delta = draw.choice(
        [
            lambda: open_masked(ring, c.mask),
            lambda: reveal(ring + c.mask),
            lambda: reveal(-(-ring + c.mask)),
            lambda: reveal((ring.T - c.mask.T).reshape(5, 3)).T,
            lambda: reveal((ring - c.mask).reshape(-1)).reshape(SHAPE),
            lambda: reveal(to_ring(value + from_ring(-c.mask))),
        ]
    )()
    return delta, from_ring(lax.shift_right_logical(delta, jnp.int32(40)) * draw.choice([c.cos, c.sin])[0])


def looped(body):
    return lambda draw, given, v: lax.fori_loop(
        0, 2, lambda _, a: a + body(draw, given, v), jnp.int32(0) + to_ring(v) * 0
    )


def spare(form):
    """An opening of v behind something that was made of a mask."""
    return lambda _, given, v: open_masked(to_ring(v), form(given["spare"].mask))


def chosen(*forms):
    return lambda draw, given, v: draw.choice(forms)(given, v)


LEAKS = {
    "unmasked": chosen(lambda _, v: reveal(to_ring(v)), lambda _, v: reveal(v), lambda _, v: reveal(-to_ring(v).T)),
    "masked by a secret": chosen(
        lambda given, v: reveal(to_ring(v) - to_ring(given["y"] + 1)),
        lambda given, v: reveal(to_ring(v) - given["c0.mask"]),  # has the name of a mask
        lambda given, v: open_masked(to_ring(v), given["spare"].cos[0]),
    ),
    "masked by something public": chosen(lambda given, v: reveal(to_ring(v) - to_ring(given["public"]))),
    "a mask reused": chosen(
        lambda given, v: (
            open_masked(to_ring(v), given["spare"].mask),
            open_masked(to_ring(v * 2), given["spare"].mask),
        ),
        lambda given, v: (open_masked(to_ring(v), given["spare"].mask), given["spare"].mask * to_ring(v)),
        lambda given, v: reveal(to_ring(v) * given["spare"].mask - given["spare"].mask),
        lambda given, v: (reveal(to_ring(v) - given["spare"].mask), reveal(to_ring(v) + (given["spare"].mask.T).T)),
    ),
    "a mask sliced": spare(lambda t: jnp.concatenate([t[:1], t[:1], t[:1]])),
    "a mask broadcast": spare(lambda t: jnp.broadcast_to(t[:1], SHAPE)),
    "a mask gathered": spare(lambda t: t[jnp.array([0, 0, 1])]),
    "a mask narrowed": chosen(
        lambda given, v: open_masked(to_ring(v), given["spare"].mask & 0xFFFF),
        lambda given, v: open_masked(to_ring(v), given["spare"].mask.astype(jnp.int16).astype(jnp.int32)),
        lambda given, v: reveal((to_ring(v) - given["spare"].mask).astype(jnp.int16)),
    ),
    "a mask shifted": spare(lambda t: t << 7),
    "a mask scaled": spare(lambda t: 3 * t),
    "a mask selected": chosen(
        lambda given, v: open_masked(to_ring(v), jnp.where(v > 0, given["spare"].mask, 0)),
        lambda given, v: reveal(jnp.where(v > 0, to_ring(v) - given["spare"].mask, to_ring(v))),
    ),
    "in a loop": looped(lambda _, given, v: open_masked(to_ring(v), given["spare"].mask)),
    "in a scan": chosen(
        lambda given, v: lax.scan(
            lambda n, row: (n, open_masked(to_ring(row[0]), row[1])), 0, (v, given["spare"].mask)
        )[1]
    ),
    "in a branch": chosen(
        lambda given, v: lax.cond(
            given["public"][0, 0] > 0,
            lambda: open_masked(to_ring(v), given["spare"].mask),
            lambda: jnp.zeros(SHAPE, jnp.int32),
        )
    ),
    "a secret place written": chosen(
        lambda given, v: lax.dynamic_update_slice(v, v[:, :1], (0, given["index"])),
        lambda given, v: lax.dynamic_update_index_in_dim(v, v[:, 0], given["index"], 1),
        lambda given, v: lax.fori_loop(
            0, 2, lambda n, a: lax.dynamic_update_slice(a, a[:, :1], (n, given["index"])), v
        ),
    ),
    "a secret number of rounds": chosen(
        lambda _, v: lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 1.0, s[1] + 1), (v.sum(), 0))[1]
    ),
    "sorted": chosen(lambda _, v: jnp.sort(v, axis=1), lambda _, v: lax.top_k(v, 2)),
    "factors too early": chosen(
        lambda given, v: open_masked(to_ring(v) * given["spare"].cos[0], given["spare"].mask),
        lambda given, v: open_masked(to_ring(v) + given["spare"].sin[0].T.reshape(SHAPE), given["spare"].mask),
    ),
    "a mask returned": chosen(
        lambda given, _: given["spare"].mask,
        lambda given, v: (open_masked(to_ring(v), given["spare"].mask), -given["spare"].mask.T),
        lambda given, v: to_ring(v) - given["spare"].mask,
    ),
    "a factor returned": chosen(
        lambda given, v: (open_masked(to_ring(v), given["spare"].mask), given["spare"].cos),
        lambda given, v: (open_masked(to_ring(v), given["spare"].mask), given["spare"].sin[0].T),
        lambda given, v: (open_masked(to_ring(v), given["spare"].mask), given["spare"].cos[0, :1] + 7),
        lambda given, _: from_ring(given["spare"].sin * 4),
        lambda given, v: to_ring(v) * given["spare"].cos[0],
    ),
    "an opening kept of what moves": chosen(lambda _, v: v.T @ make_cached_var(v * 2)),
}


def outcome(seed, leak):
    """What the audit says of a program: how many openings it proved and should have, or its faults."""
    program = Program(seed, leak)
    try:
        report = compile_program(f"program {seed}", program, (inputs(),)).audit
    except AuditError as error:
        return str(error)
    return len(report.openings), program.openings


def planted(seed):
    """The kind of leak in the program of this seed; every other program has none."""
    return random.Random(f"leak {seed}").choice(list(LEAKS)) if seed % 2 else None


def test_every_kind_of_leak_is_planted_in_many_programs():
    times = Counter(planted(seed) for seed in range(20 * PROGRAMS))
    assert times.keys() == {None, *LEAKS}
    assert min(times.values()) > 10


@pytest.mark.slow("leaks and programs that nobody thought of; 1,000 compiled ones")
@pytest.mark.parametrize("chunk", range(20))
def test_no_planted_leak_passes_and_no_legal_program_is_refused(chunk):
    for seed in range(chunk * PROGRAMS, (chunk + 1) * PROGRAMS):
        leak = planted(seed)
        found = outcome(seed, leak)
        if leak is None:
            assert isinstance(found, tuple), (seed, found)
            assert found[0] == found[1], seed
        else:
            assert isinstance(found, str), (seed, leak)
            assert f"program {seed}, line " in found
