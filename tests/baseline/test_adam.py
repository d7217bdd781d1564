import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parties import ABY3, SEMI2K_2, ULP, opened, shared

from secp_spu.baseline import LOSS_SCALE, Adam
from secp_spu.baseline.adam import EPSILON
from secp_spu.runtime import PlaintextRuntime

RATE, B1, B2, STEPS = 0.01, 0.9, 0.999, 3

RSQRT_ERROR, RSQRT_UNITS = 5e-4, 4
"""Of SPU 0.9.5, in proportion and in units: tests/inference/fixed_point.py."""


def reference(weights, gradients):
    """optax on gradients of the loss itself, for which epsilon is LOSS_SCALE**2 times smaller."""
    optimizer = optax.adam(RATE, B1, B2, eps=0, eps_root=EPSILON / LOSS_SCALE**2)
    state = optimizer.init(weights)
    for g in gradients:
        update, state = optimizer.update(jax.tree.map(lambda a: jnp.asarray(a) / LOSS_SCALE, g), state)
        weights = optax.apply_updates(weights, update)
    return weights


def draw(smallest=2.0**-5, largest=2.0**7):
    """Weights of several shapes, and gradients of LOSS_SCALE * loss whose sizes cover the range, for every step."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (13, 7), "bias": (7,)}
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    sizes = {k: np.exp2(rng.uniform(np.log2(smallest), np.log2(largest), s)) for k, s in shapes.items()}
    signs = {k: rng.choice([-1, 1], size=s) for k, s in shapes.items()}
    return weights, [
        {k: (signs[k] * sizes[k] * rng.uniform(0.5, 1, s)).astype(np.float32) for k, s in shapes.items()}
        for _ in range(STEPS)
    ]


def run(runtime, weights, gradients):
    """The project's Adam on shared weights and gradients."""
    adam, handles = Adam(runtime, RATE), shared(runtime, weights)
    moments = adam.begin(handles)
    for g in gradients:
        handles = adam.step("adam", handles, shared(runtime, g), moments)
    return opened(runtime, handles)


def bound(gradients):
    """Of the weights after all steps: how far a step may be off, times their number.

    A step is rate * m / sqrt(v + epsilon), 1.1 * rate at most here. rsqrt is off by RSQRT_ERROR and RSQRT_UNITS,
    v by 3 units (a square, a factor, a product), which is 3 units / 2v of the root; m by 2 units; the rate, being cut
    to a unit, by a unit of the step; and the product by a unit.
    """
    allowed = {}
    for k in gradients[0]:
        sizes = np.abs([g[k] for g in gradients])
        least, most = sizes.min(0), sizes.max(0)
        relative = 1.1 * RSQRT_ERROR + (most * RSQRT_UNITS + 2 / least + 3 / least**2) * ULP
        allowed[k] = STEPS * (RATE * relative + 3 * ULP)
    return allowed


def test_plaintext_is_optax():
    weights, gradients = draw()
    found = run(PlaintextRuntime(), weights, gradients)
    for k, expected in reference(weights, gradients).items():
        np.testing.assert_allclose(found[k], expected, atol=1e-6)


@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2], ids=str)
def test_under_mpc_matches_plaintext(runtimes, setting):
    weights, gradients = draw()
    found, allowed = run(runtimes(setting), weights, gradients), bound(gradients)
    for k, expected in reference(weights, gradients).items():
        assert (np.abs(found[k] - expected) <= allowed[k]).all()
        assert not (np.abs(found[k] - (np.asarray(expected) + 2 * allowed[k])) <= allowed[k]).all()
        assert np.abs(weights[k] - expected).min() > RATE  # they did move


def test_what_it_replaces_is_freed(runtimes):
    runtime = runtimes(ABY3)
    adam, weights = Adam(runtime, RATE), shared(runtime, np.ones(3, np.float32))
    gradients = shared(runtime, np.ones(3, np.float32))
    adam.step("adam", weights, gradients, adam.begin(weights))
    for handle in (weights, gradients):
        assert all(gone(party, handle.name) for party in runtime._parties)


def gone(party, name):
    try:
        party.spu.get_var(name)
    except (RuntimeError, IndexError):
        return True
    return False
