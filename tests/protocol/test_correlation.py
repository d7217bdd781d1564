import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, MULTIPLY, TRUNCATE_FAR, cost_of, peek, shared
from uniformity import are_uniform

from secp_spu.protocol import (
    CorrelationMaker,
    CosineCorrelation,
    Dealer,
    Scheme,
    SpentCorrelationError,
    cos_sin,
    dealt_error_bound,
    declare_correlation,
    joint_error_bound,
    joint_plan,
    party_streams,
)
from secp_spu.protocol.correlation import TURN_BITS, dealer_bytes, harmonic_factors
from secp_spu.runtime import Correlations

SOURCES = ("joint", "dealt")


def mask_error(setting, source, factor_bits):
    return joint_error_bound(setting[1], factor_bits) if source == "joint" else dealt_error_bound(factor_bits)


def exact_factors(t, harmonics):
    """cos kt and sin kt in float64, from the definition of a turn."""
    angle = np.stack([(np.uint64(k) * t) % np.uint64(2**36) * (2 * np.pi / 2**36) for k in range(1, harmonics + 1)])
    return np.cos(angle), np.sin(angle)


def make(runtime, shape, **options):
    with runtime.ledger.phase("offline"):
        return runtime.correlations(declare_correlation(shape, **options))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("harmonics", "factor_bits"), [(1, 9), (3, 12), (3, 18)])
def test_correlation_holds(runtimes, setting, source, harmonics, factor_bits):
    runtime = runtimes(setting, source)
    tree = make(runtime, (11, 3, 5), harmonics=harmonics, factor_bits=factor_bits).tree
    assert tree.factor_bits == factor_bits
    t = peek(runtime, tree.mask)
    assert t.shape == (11, 3, 5)
    bound = mask_error(setting, source, factor_bits)
    for handle, exact in zip((tree.cos, tree.sin), exact_factors(t, harmonics), strict=True):
        factor = peek(runtime, handle).view(np.int64) * 2.0**-factor_bits
        assert factor.shape == (harmonics, 11, 3, 5)
        assert np.abs(factor - exact).max() <= bound
        assert np.abs(factor + 2 * bound - exact).max() > bound, "the control passes"
        assert np.abs(factor - np.roll(exact, 1, axis=1)).max() > bound, "the bound cannot tell one angle from another"


@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_uniform_over_the_whole_ring(runtimes, setting, source):
    runtime = runtimes(setting, source)
    assert are_uniform(peek(runtime, make(runtime, (4099,)).tree.mask))


@pytest.mark.parametrize("source", SOURCES)
def test_batches_differ(runtimes, setting, source):
    """Chance of a false alarm: 2**18 pairs, 2**-64 each."""
    runtime = runtimes(setting, source)
    masks = [peek(runtime, make(runtime, (101,)).tree.mask) for _ in range(5)]
    assert np.unique(np.concatenate(masks)).size == 505


def test_bounds_grow_with_parties_and_shrink_with_bits():
    for bits in (9, 12, 18):
        # Dealt: rounded once. Joint: up to 1.5 units by every product, and the factors' own bits.
        assert dealt_error_bound(bits) == 2.0**-bits / 2
        assert 1.5 * 2.0**-bits < joint_error_bound(2, bits) < joint_error_bound(3, bits) < 7 * 2.0**-bits


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("factor_bits", [9, 12, 18])
def test_joint_plan_ends_with_the_bits_that_are_wanted(parties, factor_bits):
    first, *others = joint_plan(parties, factor_bits)
    assert len(others) == parties - 1
    bits = first
    for more in others:
        assert 0 <= bits - more <= 1, "the operands are not as equal as can be"
        bits += more - 18
    assert bits == factor_bits


def test_joint_plan_of_the_docstring():
    assert joint_plan(3, 9) == [16, 16, 13]


def test_declare_correlation_says_shape_and_bits():
    declared = jax.eval_shape(lambda: declare_correlation((2, 3), harmonics=5, factor_bits=12))
    assert (declared.mask.shape, declared.cos.shape, declared.sin.shape) == ((2, 3), (5, 2, 3), (5, 2, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(declared)} == {np.dtype(np.int32)}
    assert (declared.factor_bits, declared.harmonics) == (12, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor_bits": 8}, "factor_bits is 8, allowed are 9 to 18"),
        ({"factor_bits": 19}, "factor_bits is 19, allowed are 9 to 18"),
        ({"harmonics": 0}, "harmonics is 0, at least 1 is needed"),
    ],
)
def test_declare_correlation_refuses_what_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        declare_correlation((2, 3), **options)


@pytest.mark.parametrize("shape", [(7,), (5, 13)])
@pytest.mark.parametrize("harmonics", [1, 3])
def test_joint_correlations_cost_a_product_for_every_further_party(runtimes, setting, shape, harmonics):
    """A product: three multiplications in one go, and one truncation of two numbers (by a public 2**-18)."""
    _, cost = cost_of(runtimes(setting), lambda: make(runtimes(setting), shape, harmonics=harmonics), "offline")
    (multiply, multiply_sends), (drop, drop_sends) = MULTIPLY[setting], TRUNCATE_FAR[setting]
    elements, products = harmonics * math.prod(shape), setting[1] - 1
    assert cost == (products * elements * (3 * multiply + 2 * drop), products * (multiply_sends + drop_sends))


@pytest.mark.parametrize("shape", [(7,), (5, 13)])
@pytest.mark.parametrize("harmonics", [1, 3])
def test_dealt_correlations_cost_a_correction_for_every_holder(runtimes, setting, shape, harmonics):
    """16 bytes a harmonic to each that holds the last component: two under ABY3."""
    runtime = runtimes(setting, "dealt")
    _, cost = cost_of(runtime, lambda: make(runtime, shape, harmonics=harmonics), "offline")
    holders = 2 if setting == ABY3 else 1
    assert cost == (16 * harmonics * math.prod(shape) * holders, holders)
    assert cost[0] == dealer_bytes(Scheme(*setting), declare_correlation(shape, harmonics=harmonics))


# Spent once: the runtime's bookkeeping, the same under every protocol


def rotate(x, frequencies, correlation):
    return cos_sin(x, frequencies, correlation)


def rotate_two(x, frequencies, first, second):
    return cos_sin(x, frequencies, first), cos_sin(x, frequencies, second)


def copy_of(value):
    return value + 1


def open_with_a_copy(copy, correlation):
    """Would show the mask: (t + 1) - t."""
    return rotate(copy[:, None], np.eye(1, dtype=np.float32), correlation)


@pytest.fixture
def aby3(runtimes):
    return runtimes(ABY3)


@pytest.fixture
def x(aby3):
    return shared(aby3, np.ones((3, 2), np.float32))


@pytest.fixture
def w(aby3):
    return aby3.publish(np.ones((2, 5), np.float32))


@pytest.mark.parametrize("source", SOURCES)
def test_a_spent_correlation_is_refused_and_gone(runtimes, source):
    runtime = runtimes(ABY3, source)
    x, w = shared(runtime, np.ones((3, 2), np.float32)), runtime.publish(np.ones((2, 5), np.float32))
    correlation = make(runtime, (3, 5))
    names = [handle.name for handle in jax.tree.leaves(correlation.tree)]
    assert len(names) == 3
    for party in runtime._parties:
        assert all(party.spu.get_var(name) for name in names)
    runtime.run("rotate", rotate, x, w, correlation)

    message = re.escape(f"correlation {names[0]} was spent by a run before, or not made by this runtime")
    for again in (correlation, correlation.tree, Correlations(correlation.tree)):
        with pytest.raises(SpentCorrelationError, match=message):
            runtime.run("rotate", rotate, x, w, again)
    for party in runtime._parties:
        for name in names:
            with pytest.raises(Exception, match=f"symbol {name} not found"):
                party.spu.get_var(name)


def test_a_correlation_must_come_to_be_spent(aby3, x, w):
    """As a bare tree it would stay, and could be given to a second run."""
    correlation = make(aby3, (3, 5))
    with pytest.raises(SpentCorrelationError, match="is part of a correlation that is not spent: hand over what"):
        aby3.run("rotate", rotate, x, w, correlation.tree)
    aby3.run("rotate", rotate, x, w, correlation)


@pytest.mark.parametrize("part", ["mask", "cos", "sin"])
def test_nothing_is_computed_of_a_fresh_correlation(aby3, part):
    """A copy of the mask, opened under the mask itself, would be in the open."""
    correlation = make(aby3, (3, 1))
    with pytest.raises(SpentCorrelationError, match="is part of a correlation that is not spent"):
        aby3.run("copy", copy_of, getattr(correlation.tree, part))
    copy = shared(aby3, np.ones(3, np.float32))
    with pytest.raises(SpentCorrelationError, match="is part of a correlation that is not spent"):
        aby3.run("copy", lambda *args: args, getattr(correlation.tree, part), correlation.tree)
    aby3.run("open", open_with_a_copy, copy, correlation)


def test_a_correlation_comes_in_by_one_way(aby3, x, w):
    correlation = make(aby3, (3, 5))
    with pytest.raises(SpentCorrelationError, match=r"correlation v\d+ is 2 inputs of one run"):
        aby3.run("rotate", rotate_two, x, w, correlation, correlation)
    with pytest.raises(SpentCorrelationError, match=r"v\d+ is (2 inputs of one run|part of a correlation)"):
        aby3.run("rotate", lambda t, *args: (rotate(*args), t), correlation.tree.mask, x, w, correlation)
    # A refusal spends nothing.
    aby3.run("rotate", rotate, x, w, correlation)


def test_parts_of_different_correlations_are_no_correlation(aby3, x, w):
    first, second = make(aby3, (3, 5)), make(aby3, (3, 5))
    for mixed in (
        first.tree.replace(cos=second.tree.cos, sin=second.tree.sin),
        first.tree.replace(cos=first.tree.sin, sin=first.tree.cos),
        first.tree.replace(mask=second.tree.mask),
    ):
        with pytest.raises(SpentCorrelationError, match="not made by this runtime's"):
            aby3.run("rotate", rotate, x, w, Correlations(mixed))
    aby3.run("rotate", rotate_two, x, w, first, second)


def test_a_correlation_made_by_hand_is_refused(aby3, x, w):
    """Of shared int32 arrays: such a mask has 32 bits, and the upper half of x @ w would be in the open."""
    narrow = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 5)).astype(np.int32)
    by_hand = CosineCorrelation(narrow, narrow[None], narrow[None])
    handles = shared(aby3, by_hand)
    for given in (handles, Correlations(handles)):
        with pytest.raises(SpentCorrelationError, match="not made by this runtime's correlations"):
            aby3.run("rotate", rotate, x, w, given)
    assert not are_uniform(np.random.default_rng(0).integers(-(2**31), 2**31, 4099))


def test_correlations_of_another_runtime_are_refused(runtimes, aby3, x, w):
    other = make(runtimes(ABY3, "dealt"), (3, 5))
    foreign = jax.tree.map(lambda handle: type(handle)(f"foreign-{handle.name}", handle.spec), other.tree)
    with pytest.raises(SpentCorrelationError, match="not made by this runtime's correlations"):
        aby3.run("rotate", rotate, x, w, Correlations(foreign))


# The parties' side


@pytest.fixture
def scheme(setting):
    return Scheme(*setting)


@pytest.fixture
def makers(scheme):
    by_rank, _ = party_streams(scheme)
    return [CorrelationMaker(scheme, rank, streams) for rank, streams in enumerate(by_rank)]


def test_no_party_has_the_streams_of_a_whole_mask(scheme):
    by_rank, twins = party_streams(scheme)
    assert len(twins) == scheme.parties
    for rank, streams in enumerate(by_rank):
        assert set(streams) == set(scheme.held_by(rank)) < set(range(scheme.parties))
    # Nor do two streams of one process begin alike.
    assert np.unique(np.concatenate([stream.draw((11,)) for stream in twins])).size == 11 * scheme.parties


def test_what_a_party_misses_of_a_joint_mask_is_uniform(scheme, makers):
    """t less all that one party knows of it; the party's factors of the rest are zero, hence tell nothing."""
    wanted = declare_correlation((4099,))
    shares = [maker.joint(wanted) for maker in makers]
    t = scheme.reconstruct([share.mask for share in shares])
    for rank, share in enumerate(shares):
        known = scheme.components(rank, share.mask)
        assert are_uniform(t - sum(known.values(), start=np.zeros(4099, np.uint64)))
        for component in set(range(scheme.parties)) - set(known):
            for factors in (share.cos, share.sin):
                assert not any(part.any() for part in scheme.components(rank, factors[component]).values())


def test_joint_factors_are_those_of_the_components(scheme, makers):
    wanted = declare_correlation((101,), harmonics=3)
    shares = [maker.joint(wanted) for maker in makers]
    components = {}
    for rank, share in enumerate(shares):
        components |= scheme.components(rank, share.mask)
    for component, bits in enumerate(joint_plan(scheme.parties, 9)):
        for parts, exact in zip(("cos", "sin"), exact_factors(components[component], 3), strict=True):
            factor = scheme.reconstruct([getattr(share, parts)[component] for share in shares])
            # Rounded to the nearest of 2**-bits; the angle itself is off by a few roundings of a double below 2 pi.
            assert np.abs(factor.view(np.int64) * 2.0**-bits - exact).max() <= 2.0 ** -(bits + 1) + 1e-14


def test_harmonic_factors_see_nothing_above_a_turn():
    t = np.arange(0, 2**36, 2**36 // 101, dtype=np.uint64)
    for above in (1 << TURN_BITS, 5 << TURN_BITS, 2**64 - 2**36):
        raised = harmonic_factors(t + np.uint64(above), (1, 2, 3), 18)
        for near, far in zip(harmonic_factors(t, (1, 2, 3), 18), raised, strict=True):
            np.testing.assert_array_equal(near, far)


def test_dealt_shares_add_up_to_what_the_dealer_rounded(scheme):
    """A dealt factor is the nearest number of its bits, not only near."""
    by_rank, twins = party_streams(scheme)
    wanted = declare_correlation((101,), harmonics=3, factor_bits=12)
    correction = Dealer(scheme, twins).correct(wanted)
    makers = [CorrelationMaker(scheme, rank, streams) for rank, streams in enumerate(by_rank)]
    mask, cos, sin = zip(*(maker.dealt(wanted, correction) for maker in makers), strict=True)
    expected = harmonic_factors(scheme.reconstruct(mask), (1, 2, 3), 12)
    np.testing.assert_array_equal(scheme.reconstruct(cos), expected[0])
    np.testing.assert_array_equal(scheme.reconstruct(sin), expected[1])
    assert correction.nbytes == 2 * 8 * 3 * 101


def test_a_correction_alone_is_uniform(scheme):
    """What goes over the wire from the dealer tells nothing without the streams."""
    _, twins = party_streams(scheme)
    correction = Dealer(scheme, twins).correct(declare_correlation((4099,)))
    assert are_uniform(correction.cos)
    assert are_uniform(correction.sin)


def test_a_holder_of_the_last_component_needs_the_correction(scheme, makers):
    for rank, maker in enumerate(makers):
        if scheme.parties - 1 in scheme.held_by(rank):
            with pytest.raises(ValueError, match=f"rank {rank} holds component {scheme.parties - 1} and needs the"):
                maker.dealt(declare_correlation((3,)), None)
        else:
            maker.dealt(declare_correlation((3,)), None)


def test_streams_must_be_those_of_the_rank(scheme):
    by_rank, twins = party_streams(scheme)
    with pytest.raises(ValueError, match="rank 0 holds components .*, but has streams for"):
        CorrelationMaker(scheme, 0, by_rank[1])
    with pytest.raises(ValueError, match=f"the dealer needs {scheme.parties} streams, one a component, got 1"):
        Dealer(scheme, twins[:1])


def test_a_runtime_with_joint_correlations_keeps_no_twins(runtime):
    """They would know every mask."""
    assert runtime._dealer is None
    drawn = [set(party.side._maker._streams) for party in runtime._parties]
    assert all(components < set(range(runtime.parties)) for components in drawn)


def test_zeros_that_were_declared_are_never_masks(runtime):
    declared = declare_correlation((101,))
    assert not jnp.any(declared.mask)
    made = Correlations(make(runtime, (101,)).tree)
    assert np.unique(peek(runtime, made.tree.mask)).size == 101
