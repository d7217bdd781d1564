"""Programs that are cut at public steps: what their parts are, and that they compute what SPU alone does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from parties import ABY3, SEMI2K_2, cost_of, opened, peek, shared

from secp_spu.auditing import AuditError
from secp_spu.errors import RuntimeFailure
from secp_spu.protocol import declare_correlation, from_ring, open_masked, to_ring
from secp_spu.protocol.waves import NATIVE_WAVES, Waves, public_waves
from secp_spu.runtime import LocalRuntime, Spec, compile_program
from secp_spu.runtime.chain import chain_of, parts_of

X = np.float32([[1, -2, 3], [4.5, 0, -1]])
WAVES = Waves(36, start_bits=9)
SECRET, RING = Spec(X.shape, np.dtype(np.float32), True), Spec(X.shape, np.dtype(np.int32), True)
CORRELATION = declare_correlation(X.shape)


def waves_of(x, correlation):
    return public_waves(open_masked(to_ring(x), correlation.mask), WAVES)


def one_step(x, c):
    (cos,), (sin,) = waves_of(x, c)
    return from_ring(cos * c.cos[0] + sin * c.sin[0])


def nothing_behind(x, c):
    return waves_of(x, c)


def two_steps(x, c):
    """The second at once behind the first, and values of before, between and behind both in the results."""
    (cos,), (sin,) = first = waves_of(x, c)
    second = public_waves(cos, Waves(18, start_bits=12))
    return x, x + 1, first, x, from_ring(to_ring(x) * second[0, 0] + sin * c.cos[0]), to_ring(x) * 3


def small_constants(x, c):
    """SPU multiplies by 2**-20 with more bits than a number has, if it sees that it is a constant."""
    before = x * 2.0**-20 + 1
    return before, waves_of(x, c)[0, 0] * c.cos[0], x * 2.0**-20


def several_results(x, c):
    """A loop gives two values, of which one is used behind the cut."""
    state = 0, to_ring(x), to_ring(x)
    _, doubled, tripled = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 2, s[2] * 3), state)
    (cos,), _ = waves_of(from_ring(doubled), c)
    return from_ring(tripled + cos * c.cos[0])


PROGRAMS = [one_step, nothing_behind, two_steps, small_constants, several_results]


@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2], ids=["aby3", "semi2k"])
@pytest.mark.parametrize("program", PROGRAMS, ids=[program.__name__ for program in PROGRAMS])
def test_a_cut_program_computes_and_costs_what_spu_alone_does(runtimes, monkeypatch, setting, program):
    """On the same mask, which tests alone may use twice."""
    runtime = runtimes(setting)
    x, made = shared(runtime, X), runtime.correlations(CORRELATION)
    monkeypatch.setattr(runtime, "_spend", lambda *_: None)
    monkeypatch.setattr(runtime, "free", lambda *_: None)
    cut, cost = cost_of(runtime, lambda: runtime.run("cut", program, x, made))

    def interpreted(name, fn, specs):
        return compile_program(name, fn, specs, native=False)

    monkeypatch.setattr("secp_spu.runtime.base.compile_program", interpreted)
    whole, whole_cost = cost_of(runtime, lambda: runtime.run("whole", lambda *a: program(*a), x, made))
    steps = [sum(step.code is None for step in chain_of(program.code)) for program in runtime.programs[-2:]]
    assert steps == [2 if program is two_steps else 1, 0]
    assert cost == whole_cost
    for one, other in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True):
        assert one.spec == other.spec
        found, expected = peek(runtime, one).view(np.int64), peek(runtime, other).view(np.int64)
        # A truncation is one off by chance.
        assert np.abs(found - expected).max() <= (1 if one.spec.dtype == np.float32 else 0)


def test_parts_are_programs_whose_lines_are_those_of_the_whole():
    program = compile_program("two", two_steps, (SECRET, jax.tree.map(lambda _: RING, CORRELATION)))
    chain = chain_of(program.code)
    assert [step.code is None for step in chain] == [False, True, False, True, False]
    assert parts_of(program.code) == 3
    whole = program.code.decode().splitlines()
    for step in chain[::2]:
        first, _, *lines, last, end, _ = step.code.decode().splitlines()
        assert first == whole[0]
        assert set(lines) <= set(whole)
        assert last.startswith("    return ")
        assert end == "  }"
    statements = [line for step in chain[::2] for line in step.code.decode().splitlines() if line.startswith("    %")]
    twice = [line for line in set(statements) if statements.count(line) > 1]
    assert all("pphlo.constant" in line for line in twice)
    assert len(chain[-1].outputs) == len(jax.tree.leaves(program.outputs))


def test_a_program_without_steps_is_itself():
    program = compile_program("sum", lambda x: x.sum(), (SECRET,))
    (step,) = chain_of(program.code)
    assert step.code is program.code


def test_nothing_of_a_cut_programs_way_is_kept():
    program = compile_program("two", two_steps, (SECRET, jax.tree.map(lambda _: RING, CORRELATION)))
    chain = chain_of(program.code)
    passed = {value for step in chain[:-1] for value in step.outputs}
    assert passed == {value for step in chain for value in step.last}
    assert len(passed) >= 3


def test_the_ledger_has_public_steps_seconds(runtimes):
    runtime = runtimes(ABY3)
    runtime.run("one", one_step, shared(runtime, X), runtime.correlations(CORRELATION))
    row = runtime.ledger.report()["online"]["operations"][NATIVE_WAVES]
    assert row["bytes_total"] == row["sends"] == 0
    assert row["seconds"] > 0


def test_a_public_step_inside_a_region_is_refused():
    def program(x, c):
        cos = waves_of(x, c)[0, 0]
        return lax.fori_loop(0, 3, lambda _, sum: sum + public_waves(cos, WAVES)[0, 0], cos)

    with pytest.raises(AuditError, match="a public step is inside a region, where a program cannot be cut"):
        compile_program("loop", program, (SECRET, jax.tree.map(lambda _: RING, CORRELATION)))


def test_a_public_step_on_a_secret_is_refused():
    with pytest.raises(AuditError, match="has a secret where SPU may reveal it"):
        compile_program("secret", lambda x: public_waves(to_ring(x), WAVES), (SECRET,))


def test_a_constant_that_no_release_makes_ends_the_run(monkeypatch):
    wrong = WAVES.as_constant()
    wrong[0, 0] = 17
    monkeypatch.setattr(Waves, "as_constant", lambda _: wrong)
    with LocalRuntime("semi2k", 2) as runtime:
        x, made = shared(runtime, X), runtime.correlations(CORRELATION)
        with pytest.raises(RuntimeFailure, match="an operand of public waves is no constant that this release makes"):
            runtime.run("wrong", lambda x, c: waves_of(x, c), x, made)


def test_public_steps_go_through_vmap(runtimes):
    runtime = runtimes(ABY3)
    delta = runtime.publish(np.arange(6, dtype=np.int32).reshape(2, 3) << 17)
    of = Waves(18, start_bits=9)
    together = runtime.run("together", lambda d: public_waves(d, of), delta)
    mapped = runtime.run("mapped", jax.vmap(lambda d: public_waves(d, of)), delta)
    np.testing.assert_array_equal(opened(runtime, together), jnp.moveaxis(opened(runtime, mapped), 0, 2))
