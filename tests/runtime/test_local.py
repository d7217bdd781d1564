import gc
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, ULP, opened, peek, shared

from secp_spu.errors import RuntimeFailure
from secp_spu.protocol import SpentCorrelationError, cos_sin, declare_correlation, open_masked, to_ring
from secp_spu.runtime import AuditRuntime, LocalRuntime, Owned, PlaintextRuntime, Spec, Stored

FLOATS = np.array([[0, 1, -1, 0.1, -1234.5], [ULP, -ULP, 2.0**44, -(2.0**44), 3.25]], np.float32)
INTEGERS = np.array([0, 1, -1, 2**31 - 1, -(2**31)], np.int32)


def add(a, b):
    return a + b


def scale(a):
    return a * 3


def multiply(a, b):
    return a * b


# Values in and out


@pytest.mark.parametrize("values", [FLOATS, INTEGERS, np.float32(-2.5).reshape(()), np.zeros((3, 0), np.float32)])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_what_is_shared_can_be_opened(runtime, values, array):
    handle = shared(runtime, array(values))
    assert handle.spec == Spec(values.shape, values.dtype, secret=True)
    back = opened(runtime, handle)
    assert back.dtype == values.dtype
    np.testing.assert_allclose(back, values, rtol=0, atol=ULP / 2 if values.dtype == np.float32 else 0)


def test_trees_keep_their_structure(runtime):
    tree = {"a": [FLOATS, INTEGERS], "b": {"c": FLOATS[0]}}
    handles = shared(runtime, tree)
    assert jax.tree.structure(handles) == jax.tree.structure(tree)
    back = opened(runtime, handles)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    np.testing.assert_array_equal(back["a"][1], INTEGERS)


def test_share_hides_a_value_from_every_single_party(runtime):
    """One party's share of zero and of ones: all components differ from draw to draw, none shows the value."""
    drawn = []
    for value in (0, 0, 1, 1):
        handle = shared(runtime, np.full(11, value, np.float32))
        for party in runtime._parties:
            drawn += runtime._scheme.components(party.rank, party.spu.get_var(handle.name)).values()
    # Under ABY3 two parties hold each component. Chance of a false alarm: 2**17 pairs, 2**-64 each.
    copies = 2 if runtime.protocol == "aby3" else 1
    assert np.unique(np.concatenate(drawn)).size == 4 * runtime.parties * 11
    assert len(drawn) == copies * 4 * runtime.parties


@pytest.mark.parametrize("values", [FLOATS, INTEGERS])
def test_what_is_published_is_public(runtime, values):
    handle = runtime.publish(values)
    assert handle.spec == Spec(values.shape, values.dtype, secret=False)
    np.testing.assert_allclose(opened(runtime, handle), values, rtol=0, atol=ULP / 2)
    same = [party.spu.get_var(handle.name) for party in runtime._parties]
    assert len({(share.meta, tuple(share.share_chunks)) for share in same}) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**45])
@pytest.mark.parametrize("way", ["share", "publish"])
def test_values_out_of_range_are_refused(runtimes, value, way):
    runtime = runtimes(ABY3)
    values = np.array([0, value], np.float32)
    with pytest.raises(ValueError, match=r"values must be finite and at most 2\*\*44"):
        runtime.share(Owned("owner", values)) if way == "share" else runtime.publish(values)
    assert opened(runtime, shared(runtime, FLOATS)).shape == FLOATS.shape


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float16, bool])
@pytest.mark.parametrize("way", ["share", "publish"])
def test_other_types_are_refused(runtimes, dtype, way):
    runtime = runtimes(ABY3)
    with pytest.raises(ValueError, match=f"values have dtype {np.dtype(dtype)}: share float32 or int32"):
        runtime.share(Owned("owner", np.zeros(2, dtype))) if way == "share" else runtime.publish(np.zeros(2, dtype))


@pytest.mark.parametrize("party", ["", 3, None])
def test_an_owner_has_a_name(runtime, party):
    with pytest.raises(TypeError, match="`party` is .*, but must be a party's name, such as 'alice'"):
        runtime.share(Owned(party, FLOATS))
    with pytest.raises(TypeError, match="`party` is .*, but must be a party's name"):
        runtime.open_to(party, shared(runtime, FLOATS))


def test_a_boolean_result_cannot_be_opened_and_harms_nothing(runtime):
    x = shared(runtime, FLOATS)
    positive = runtime.run("positive", lambda x: x > 0, x)
    with pytest.raises(ValueError, match="only arithmetic shares of 64 bits are read here"):
        opened(runtime, positive)
    chosen = runtime.run("choose", lambda p: jnp.where(p, 1.0, 0.0), positive)
    np.testing.assert_array_equal(opened(runtime, chosen), FLOATS > 0)


@pytest.mark.parametrize(("protocol", "parties"), [("cheetah", 2), ("aby3", 2), ("semi2k", 1)])
def test_protocols_that_do_not_exist_are_refused(protocol, parties):
    before = threading.active_count()
    with pytest.raises(ValueError, match=protocol):
        LocalRuntime(protocol, parties)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("semi2k", "2"), {}, "parties is '2', but must be a whole number"),
        ((3,), {}, "protocol is 3, but shares are known for 'aby3' and 'semi2k'"),
        ((), {"correlations": "x"}, "correlations is 'x', but must be 'joint' or 'dealt'"),
        ((), {"timeout_seconds": 0.5}, "timeout_seconds is 0.5, but must be a whole number, 1 or more"),
    ],
)
def test_arguments_that_name_no_runtime_are_refused(arguments, options, message):
    before = threading.active_count()
    with pytest.raises(ValueError, match=message):
        LocalRuntime(*arguments, **options)
    assert threading.active_count() == before


# Owners


class Owner:
    """Something that keeps a secret at one party."""

    def __init__(self, start, *, step=1):
        self._total, self._step = start, step

    def add(self, amount, *, times=1):
        self._total += self._step * amount * times
        return self._total


def test_what_an_actor_returns_belongs_to_its_party(runtimes):
    actor = runtimes(ABY3).actor("alice", Owner, 5, step=2)
    first = actor.add(10)
    assert isinstance(first, Owned)
    assert (first.party, first.value) == ("alice", 25)
    assert actor.add(first, times=Owned("alice", 2)).value == 25 + 2 * 25 * 2


def test_an_actor_refuses_what_belongs_to_another(runtimes):
    actor = runtimes(ABY3).actor("alice", Owner, 5)
    for call in (lambda: actor.add(Owned("bob", 1)), lambda: actor.add(1, times=Owned("bob", 1))):
        with pytest.raises(ValueError, match="alice was given a value of bob: owners do not see each other's values"):
            call()
    assert actor.add(0).value == 5


def test_an_owned_value_is_not_shown():
    owned = Owned("alice", "a secret text")
    for text in (repr(owned), str(owned), f"{owned} {[owned]}"):
        assert "alice" in text
        assert "a secret text" not in text


def test_disclose_gives_the_value(runtimes):
    assert runtimes(ABY3).disclose(Owned("alice", 7)) == 7


def test_every_owner_is_at_home_in_a_single_process(runtimes):
    assert runtimes(ABY3).at_home(Owned("alice", 7)) == 7


# Programs and variables


def test_programs_are_compiled_once_for_every_shape(runtimes):
    runtime = runtimes(ABY3)
    before = len(runtime.programs)
    values = [shared(runtime, np.ones(size, np.float32)) for size in (3, 3, 5)]
    for value in values:
        runtime.run("add", add, value, value)
    assert len(runtime.programs) == before + 2
    runtime.run("add", add, *shared(runtime, (INTEGERS, INTEGERS)))
    assert len(runtime.programs) == before + 3
    runtime.run("add", add, shared(runtime, np.ones(3, np.float32)), runtime.publish(np.ones(3, np.float32)))
    assert len(runtime.programs) == before + 4
    runtime.run("other", scale, values[0])
    assert len(runtime.programs) == before + 5


def test_free_deletes_at_all_parties(runtime):
    tree = shared(runtime, {"a": FLOATS, "b": INTEGERS})
    kept = shared(runtime, FLOATS)
    runtime.free(tree)
    for party in runtime._parties:
        for handle in jax.tree.leaves(tree):
            with pytest.raises(Exception, match=f"symbol {handle.name} not found"):
                party.spu.get_var(handle.name)
        assert party.spu.get_var(kept.name)
    runtime.free({})


def test_results_keep_nothing_alive(runtime):
    """After a run the parties keep its inputs and outputs, and what it spent is gone."""
    x, w = shared(runtime, np.ones((3, 2), np.float32)), runtime.publish(np.ones((2, 5), np.float32))
    correlation = runtime.correlations(declare_correlation((3, 5)))
    first = int(next(runtime._names)[1:])
    results = runtime.run("cos_sin", cos_sin, x, w, correlation)
    last = int(next(runtime._names)[1:])
    assert last - first - 1 == len(results) == 2


# Failures


def broken(setting=SEMI2K_2, rank=1):
    """A runtime with a handle that one party has lost."""
    runtime = LocalRuntime(*setting, timeout_seconds=2)
    x = shared(runtime, np.ones(5, np.float32))
    runtime._parties[rank].spu.del_var(x.name)
    return runtime, x


@pytest.mark.slow("one rank's failure frees all; others' patience ends")
@pytest.mark.parametrize(("setting", "rank"), [(ABY3, 0), (ABY3, 2), (SEMI2K_2, 1)])
def test_a_party_that_fails_is_named_at_once_and_ends_the_runtime(setting, rank):
    """The others wait for its message until their patience of 2 seconds ends; nobody waits for them."""
    runtime, x = broken(setting, rank)
    start = time.monotonic()
    with pytest.raises(
        RuntimeFailure, match=f"rank {rank} failed, all parties ended: .*symbol {x.name} not found"
    ) as failure:
        runtime.run("multiply", multiply, x, x)
    assert failure.value.__cause__ is not None
    # Compiling takes below a second; 5 are for a busy machine.
    assert time.monotonic() - start < 5
    for call in (
        lambda: runtime.run("multiply", multiply, x, x),
        lambda: runtime.open_to("owner", x),
        lambda: shared(runtime, FLOATS),
        lambda: runtime.publish(FLOATS),
        lambda: runtime.correlations(declare_correlation((3,))),
        lambda: runtime.free(x),
    ):
        with pytest.raises(RuntimeFailure, match=f"rank {rank} failed"):
            call()
    runtime.close()
    for party in runtime._parties:
        party.thread.join(10)
        assert not party.thread.is_alive()


def test_a_failure_does_not_reach_other_runtimes():
    """Of the same kind, before and after: by one name SPU gives out one link, with the messages that nobody took.

    Nor do the lines of a failed run, that SPU's log has in common: party 0 finishes a sum by itself.
    """
    with LocalRuntime(*SEMI2K_2) as before:
        x = shared(before, INTEGERS)
        for fn in (add, multiply):
            runtime, lost = broken()
            with pytest.raises(RuntimeFailure):
                runtime.run("lost", fn, lost, lost)
            for party in runtime._parties:
                party.thread.join(10)
            with LocalRuntime(*SEMI2K_2) as after:
                y = shared(after, INTEGERS)
                for other, handle in ((before, x), (after, y)):
                    square = peek(other, other.run("square", multiply, handle, handle)).view(np.int64)
                    np.testing.assert_array_equal(square, INTEGERS.astype(np.int64) ** 2)
                    assert set(other.ledger.report()["online"]["programs"]) == {"share", "square"}


def test_an_owners_error_is_the_drivers_and_ends_nothing(runtimes):
    runtime = runtimes(ABY3)
    with pytest.raises(TypeError):
        runtime.actor("alice", Owner, 5).add("a text")
    with pytest.raises(ValueError, match="Incompatible shapes"):
        runtime.run("add", add, *shared(runtime, (FLOATS, INTEGERS[:3])))
    assert opened(runtime, shared(runtime, INTEGERS))[1] == 1


def test_close_is_final_and_may_be_repeated():
    runtime = LocalRuntime(*SEMI2K_2)
    x = shared(runtime, FLOATS)
    with runtime:
        runtime.run("scale", scale, x)
    runtime.close()
    runtime.close()
    assert not any(party.thread.is_alive() for party in runtime._parties)
    for call in (lambda: runtime.run("scale", scale, x), lambda: shared(runtime, FLOATS)):
        with pytest.raises(RuntimeFailure, match="the runtime is closed"):
            call()


def test_a_drivers_error_inside_the_block_ends_the_parties():
    with pytest.raises(KeyError), LocalRuntime(*SEMI2K_2) as runtime:
        raise KeyError
    assert not any(party.thread.is_alive() for party in runtime._parties)
    with pytest.raises(RuntimeFailure, match="the runtime is closed"):
        runtime.publish(FLOATS)


def test_close_after_a_failure_waits_for_nobody():
    runtime, x = broken()
    with pytest.raises(RuntimeFailure):
        runtime.run("multiply", multiply, x, x)
    start = time.monotonic()
    runtime.close()
    assert time.monotonic() - start < 1


# Two at a time


def test_two_runtimes_keep_values_and_ledgers_apart():
    with LocalRuntime(*SEMI2K_2) as first, LocalRuntime(*ABY3) as second:
        x, y = shared(first, FLOATS), shared(second, FLOATS)
        assert x.name == y.name
        before = second.ledger.state()
        first.run("multiply", multiply, x, x)
        assert second.ledger.state() == before
        second.run("scale", scale, y)
        assert set(first.ledger.report()["online"]["programs"]) == {"share", "multiply"}
        assert set(second.ledger.report()["online"]["programs"]) == {"share", "scale"}
        np.testing.assert_array_equal(peek(first, x), peek(second, y))


def test_two_runtimes_may_run_at_the_same_time():
    """SPU's log belongs to the process: runs take turns, so that each is booked where it belongs."""
    runtimes = [LocalRuntime(*SEMI2K_2), LocalRuntime(*ABY3), LocalRuntime(*SEMI2K_2)]
    sizes, repeats = (7, 11, 13), 5
    handles = [shared(runtime, np.ones(size, np.float32)) for runtime, size in zip(runtimes, sizes, strict=True)]
    failures = []

    def work(runtime, x):
        try:
            for _ in range(repeats):
                runtime.run("multiply", multiply, x, x)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(runtimes, handles, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for runtime, size, an_element in zip(runtimes, sizes, (40, 52, 40), strict=True):
        assert runtime.ledger.state()["online"]["programs"]["multiply"]["bytes_total"] == repeats * size * an_element
        runtime.close()


def test_a_correlation_survives_only_in_its_runtime():
    with LocalRuntime(*SEMI2K_2) as first, LocalRuntime(*SEMI2K_2) as second:
        x, w = shared(second, np.ones((3, 2), np.float32)), second.publish(np.ones((2, 5), np.float32))
        foreign = first.correlations(declare_correlation((3, 5)))
        with pytest.raises(SpentCorrelationError, match="not made by this runtime"):
            second.run("cos_sin", cos_sin, x, w, foreign)


@pytest.mark.parametrize(
    "use",
    [
        lambda runtime, x: runtime.run("scale", scale, x),
        lambda runtime, x: runtime.jit(scale)(x),
        lambda runtime, x: runtime.open_to("alice", x),
        lambda runtime, x: runtime.free(x),
        lambda runtime, x: runtime.pin([x]),
    ],
    ids=["run", "jit", "open_to", "free", "pin"],
)
@pytest.mark.parametrize("make", [PlaintextRuntime, lambda: AuditRuntime(*ABY3)], ids=["plaintext", "audit"])
def test_a_handle_of_another_runtime_is_refused(use, make):
    """Both runtimes call their first array v0."""
    with make() as first, make() as second:
        x, y = shared(first, FLOATS), shared(second, -FLOATS)
        assert x.name == y.name
        with pytest.raises(ValueError, match="v0 is a handle of another runtime: a handle is used with the runtime"):
            use(second, x)
        use(second, y)


def test_a_correlation_of_another_runtime_is_refused_whose_names_are_the_same():
    def open_it(x, c):
        return open_masked(to_ring(x), c.mask)

    with AuditRuntime(*ABY3) as first, AuditRuntime(*ABY3) as second:
        made = [runtime.correlations(declare_correlation((3,))) for runtime in (first, second)]
        assert made[0].tree.mask.name == made[1].tree.mask.name
        x = shared(second, np.ones(3, np.float32))
        with pytest.raises(SpentCorrelationError, match="not made by this runtime"):
            second.run("open", open_it, x, made[0])
        with pytest.raises(ValueError, match="is a handle of another runtime"):
            second.run("mask", lambda x, mask: to_ring(x) - mask, x, made[0].tree.mask)
        second.run("open", open_it, x, made[1])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda runtime: runtime.share(FLOATS), r"`values` is a ndarray, .* whose it is: Owned\(party, values"),
        (lambda runtime: runtime.share(Owned("alice", [1.0])), "a value is a float, but must be an array, such as"),
        (lambda runtime: runtime.open_to("alice", FLOATS), "a value is a ndarray, but must be a handle"),
        (lambda runtime: runtime.open_to("alice", Owned("alice", FLOATS)), "a value is a Owned, but must be a handle"),
        (lambda runtime: runtime.run("scale", scale, FLOATS), "a value is a ndarray, but must be a handle"),
        (lambda runtime: runtime.jit(3), "`fn` is a int, but must be a JAX function"),
    ],
)
@pytest.mark.parametrize("make", [PlaintextRuntime, lambda: AuditRuntime(*ABY3)], ids=["plaintext", "audit"])
def test_arguments_of_another_kind_are_named(use, message, make):
    with make() as runtime, pytest.raises(TypeError, match=message):
        use(runtime)


def test_a_function_without_results_is_refused(runtimes):
    runtime = runtimes(ABY3)
    with pytest.raises(ValueError, match="lambda returns no array"):
        runtime.jit(lambda x: (x, None)[1])(shared(runtime, FLOATS))


def test_a_handle_is_only_a_name(runtimes):
    """A handle that goes out of scope deletes nothing; a copy of it means the same."""
    runtime = runtimes(ABY3)
    x = shared(runtime, INTEGERS)
    copy = Stored(x.name, x.spec, x.runtime)
    del x
    gc.collect()
    np.testing.assert_array_equal(opened(runtime, copy), INTEGERS)


def test_a_mask_cannot_be_opened_before_it_is_spent(runtime):
    fresh = runtime.correlations(declare_correlation((3,)))
    with pytest.raises(SpentCorrelationError, match="nobody may see it"):
        runtime.open_to("owner", fresh.tree.mask)


def test_an_array_that_was_freed_is_refused_before_anything_runs(runtimes):
    """The parties would fail on it, and the runtime would end."""
    runtime = runtimes(ABY3)
    x = shared(runtime, np.ones(3, np.float32))
    correlation = runtime.correlations(declare_correlation((3,)))
    runtime.free(x)
    with pytest.raises(ValueError, match="was freed"):
        runtime.run("freed", lambda a: a + 1, x)
    y = shared(runtime, np.ones(3, np.float32))
    runtime.run("open", lambda x, c: open_masked(to_ring(x), c.mask), y, correlation)
    with pytest.raises(ValueError, match="part of a correlation that is spent"):
        runtime.run("again", lambda a, t: to_ring(a) - t, y, correlation.tree.mask)
    assert opened(runtime, y).tolist() == [1, 1, 1]
