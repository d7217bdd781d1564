"""Secure functions that make and spend their own correlations."""

from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, ULP, cost_of, opened, shared

from secp_spu.auditing import AuditError
from secp_spu.model import RandomFeatureAttention, TransformerConfig
from secp_spu.protocol import (
    Scheme,
    cos_error_bound,
    cos_sin,
    cos_sin_of_turns,
    declare_correlation,
    fit_gelu,
    joint_error_bound,
    reciprocal_error_bound,
    series_error_bound,
    series_gelu,
    series_reciprocal,
)
from secp_spu.runtime import AuditRuntime, LocalRuntime, Owned, PlaintextRuntime

X = np.random.default_rng(0).uniform(-9, 9, (5, 3)).astype(np.float32)
FREQUENCIES = np.random.default_rng(1).uniform(-1, 1, (3, 7))
UNMASKED = "JAX transforms by itself"


def private_cosine(x):
    return cos_sin(x, FREQUENCIES)


def largest_error(found, expected):
    return max(np.abs(a - np.asarray(b)).max() for a, b in zip(found, expected, strict=True))


def cosine_bound(setting):
    return ULP + cos_error_bound(
        np.abs(X).sum(1).max(),
        np.abs(FREQUENCIES).sum(0).max(),
        factor_bits=18,
        mask_error=joint_error_bound(Scheme(*setting), 18),
    )


def test_a_private_cosine_takes_three_lines(runtime, setting):
    x = runtime.share(Owned("alice", X))
    secure = runtime.jit(lambda x: cos_sin(x, FREQUENCIES))
    cos, sin = runtime.open_to("alice", secure(x)).value
    assert largest_error((cos, sin), cos_sin(X, FREQUENCIES)) < cosine_bound(setting)


def test_every_call_spends_fresh_correlations_which_are_booked_as_offline():
    with LocalRuntime(*ABY3) as runtime:
        secure, x = runtime.jit(private_cosine), shared(runtime, X)
        _, first = cost_of(runtime, lambda: secure(x), "offline")
        _, second = cost_of(runtime, lambda: secure(x), "offline")
        assert first == second == (48 * 35, 3)
        assert set(runtime.ledger.report()["online"]["programs"]) == {"share", "private_cosine"}
        assert not runtime._fresh


def test_a_function_is_compiled_once_for_each_shape_of_its_arguments():
    traces = []

    def traced(x):
        traces.append(x.shape)
        return cos_sin(x, FREQUENCIES)

    with LocalRuntime(*ABY3) as runtime:
        secure = runtime.jit(traced, name="cosine")
        for rows in (5, 5, 2):
            secure(shared(runtime, X[:rows]))
        assert [program.name for program in runtime.programs] == ["cosine", "cosine"]
    assert traces == [(5, 3)] * 2 + [(2, 3)] * 2  # once for what it spends, once to be compiled


def test_arguments_are_pytrees_of_handles_and_plain_arrays_which_are_published_for_the_call(runtimes):
    runtime = runtimes(ABY3)
    secure = runtime.jit(lambda pair, scale: {"sum": pair["a"] @ pair["w"] + scale}, name="affine")
    result = secure({"a": shared(runtime, X), "w": FREQUENCIES}, np.float32(0.5))
    program = runtime.programs[-1]
    assert (program.name, program.inputs) == ("affine", 3)
    assert "tensor<3x7xf32>" in program.code.decode()  # public
    np.testing.assert_allclose(opened(runtime, result)["sum"], X @ FREQUENCIES + 0.5, atol=100 * ULP)


@pytest.mark.slow("`jit` supplies GELU's and the reciprocal's masks; compiled for MPC")
@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2])
def test_the_series_spend_their_own_correlations(runtimes, setting):
    runtime, series = runtimes(setting), fit_gelu(6.0, 5)
    near, mask_error = X / 9 * 5.9, joint_error_bound(Scheme(*setting), 24)

    def both(x, y):
        return series_gelu(x, series), series_reciprocal(y, 1.0)

    y = np.linspace(0.05, 1, 11).astype(np.float32)
    gelu, reciprocal = opened(runtime, runtime.jit(both)(*shared(runtime, (near, y))))
    assert ("2.0.mask", "2.1.mask") in [program.audit.masks for program in runtime.programs]
    exact = jax.nn.gelu(near, approximate=False)
    assert np.abs(gelu - exact).max() < series_error_bound(series, mask_error=mask_error) + 2 * ULP
    bound = reciprocal_error_bound(x_error=ULP, mask_error=mask_error)
    assert np.abs(reciprocal * y - 1).max() < bound + ULP


def test_angles_in_turns_spend_one_too(runtimes):
    runtime = runtimes(ABY3)
    found = opened(runtime, runtime.jit(cos_sin_of_turns)(shared(runtime, X)))
    assert largest_error(found, cos_sin_of_turns(X)) < 5e-3


def test_a_module_spends_what_it_declares(runtimes):
    config = TransformerConfig(
        vocab_size=2,
        width=16,
        layers=1,
        heads=2,
        intermediate=13,
        max_positions=5,
        position_offset=0,
        type_vocab_size=1,
        layer_norm_epsilon=1e-5,
        attention="rfa",
        features=16,
    )
    runtime, module, rng = runtimes(ABY3), RandomFeatureAttention(config), np.random.default_rng(2)
    inputs = [rng.normal(size=(1, 2, 5, 8)).astype(np.float32) for _ in range(3)] + [np.ones((1, 5), np.float32)]
    variables = module.init(jax.random.key(0), *inputs)
    params, public = (jax.tree.map(np.asarray, variables[name]) for name in ("params", "public"))

    def attention(params, *inputs):
        return module.apply({"params": params, "public": public}, *inputs)

    found = opened(runtime, runtime.jit(attention)(*shared(runtime, (params, *inputs))))
    np.testing.assert_allclose(found, attention(params, *inputs), atol=0.05)
    assert runtime.programs[-1].audit.masks == ("5.0.mask",)


def test_what_is_public_needs_no_mask(runtimes):
    runtime = runtimes(ABY3)
    known = np.float32([[0.5, 1, 2]])
    secure = runtime.jit(lambda x: (x + 1, cos_sin(known, FREQUENCIES)[0]), name="known")
    _, cos = opened(runtime, secure(shared(runtime, X)))
    assert runtime.programs[-1].audit.masks == ()
    np.testing.assert_allclose(cos, cos_sin(known, FREQUENCIES)[0], atol=2 * ULP)


def in_scan(x):
    return jax.lax.scan(lambda carry, row: (carry, cos_sin(row[None], FREQUENCIES)), 0, x)[1]


def in_vmap(x):
    return jax.vmap(lambda row: cos_sin(row[None], FREQUENCIES))(x)


def in_jit(x):
    return jax.jit(private_cosine)(x)


def in_grad(x):
    return jax.grad(lambda x: cos_sin(x, FREQUENCIES)[0].sum())(x)


@pytest.mark.parametrize("fn", [in_scan, in_vmap, in_jit, in_grad])
def test_a_mask_that_may_be_used_more_than_once_is_refused(runtimes, fn):
    runtime = runtimes(ABY3)
    before, programs = runtime.ledger.state(), len(runtime.programs)
    x = shared(runtime, X)
    with pytest.raises(ValueError, match=UNMASKED):
        runtime.jit(fn)(x)
    after = runtime.ledger.state()
    assert (after["offline"], len(runtime.programs)) == (before["offline"], programs)


@pytest.mark.parametrize("loop", ["scan", "vmap", "twice"])
def test_the_audit_refuses_a_reused_mask_however_it_came_there(runtimes, loop):
    """The audit would, if JAX were not asked which trace it is in."""
    runtime = runtimes(ABY3)
    correlation = runtime.correlations(declare_correlation((1, 7)))

    def reuse(x, correlation):
        def one(row):
            return [part.ring for part in cos_sin(row[None], FREQUENCIES, correlation)]

        if loop == "twice":
            return one(x[0]), one(x[1])
        return jax.lax.scan(lambda carry, row: (carry, one(row)), 0, x) if loop == "scan" else jax.vmap(one)(x)

    with pytest.raises(AuditError, match="inside a region|not masked|used 2 times"):
        runtime.run("reuse", reuse, shared(runtime, X), correlation)


def test_nothing_is_made_for_a_program_that_the_audit_refuses(runtimes):
    from spu.experimental import reveal

    runtime = runtimes(ABY3)
    before, fresh = runtime.ledger.state()["offline"], set(runtime._fresh)
    with pytest.raises(AuditError):
        runtime.jit(lambda x: (cos_sin(x, FREQUENCIES), reveal(x)))(shared(runtime, X))
    assert runtime.ledger.state()["offline"] == before
    assert runtime._fresh == fresh


def test_a_function_that_changes_what_it_spends_is_refused(runtimes):
    runtime, calls = runtimes(ABY3), count(1)
    with pytest.raises(ValueError, match="spends other correlations than when it was traced before"):
        runtime.jit(lambda x: cos_sin(x[: next(calls)], FREQUENCIES))(shared(runtime, X))


def test_arguments_of_other_kinds_are_refused(runtimes):
    runtime = runtimes(ABY3)
    secure = runtime.jit(private_cosine)
    for argument, why in (
        (Owned("alice", X), "a value of alice: hand over what the runtime's share"),
        (runtime.correlations(declare_correlation((5, 7))), "makes its own"),
        (X.astype(np.complex64), "dtype complex64"),
        (np.array([2**31]), "dtype int64: give float32, or int32, which its numbers must fit"),
    ):
        with pytest.raises(ValueError, match=why):
            secure(argument)
    with pytest.raises(ValueError, match="call the plain function"):
        runtime.jit(lambda x: secure(x))(shared(runtime, X))


def test_a_constant_that_no_32_bits_hold_is_refused(runtimes):
    runtime = runtimes(ABY3)
    with pytest.raises(ValueError, match="make it an argument"):
        runtime.jit(lambda x: cos_sin(x, 1e4 * np.ones((3, 1))))(shared(runtime, X))


def test_secret_integers_are_refused(runtimes):
    runtime = runtimes(ABY3)
    secure = runtime.jit(private_cosine)
    with pytest.raises(ValueError, match="convert it with x.astype"):
        secure(shared(runtime, X.astype(np.int32)))
    converted = runtime.jit(lambda x: private_cosine(x.astype(jnp.float32)))(shared(runtime, X.astype(np.int32)))
    assert largest_error(opened(runtime, converted), private_cosine(X.astype(np.int32))) < cosine_bound(ABY3)


def test_outside_of_jit_the_same_function_is_plain_jax():
    cos, sin = jax.jit(private_cosine)(X)
    np.testing.assert_allclose(cos, np.cos(2 * np.pi * X @ FREQUENCIES), atol=1e-4)
    np.testing.assert_allclose(sin, np.sin(2 * np.pi * X @ FREQUENCIES), atol=1e-4)


def test_the_plaintext_runtime_computes_the_same():
    with PlaintextRuntime() as runtime:
        x = runtime.share(Owned("alice", X))
        found = opened(runtime, runtime.jit(cos_sin)(x, FREQUENCIES.astype(np.float32)))
        assert largest_error(found, cos_sin(X, FREQUENCIES)) < 1e-4
        assert len(runtime._values) == 3


def test_the_audit_runtime_compiles_what_jit_would_run():
    with AuditRuntime(*SEMI2K_2) as runtime:
        runtime.jit(private_cosine)(runtime.share(Owned("alice", X)))
        assert {program.name for program in runtime.programs} == {"private_cosine", "combine"}
