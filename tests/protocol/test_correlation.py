import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, MULTIPLY, cost_of, peek, shared
from uniformity import are_alike, are_uniform

from secp_spu.protocol import (
    ROUNDS,
    Correction,
    CorrelationMaker,
    CosineCorrelation,
    Dealer,
    Scheme,
    SpentCorrelationError,
    cos_sin,
    dealt_error_bound,
    declare_correlation,
    finish_exchange,
    joint_error_bound,
    joint_plan,
    party_streams,
)
from secp_spu.protocol.correlation import ANGLE_BITS, TURN_BITS
from secp_spu.protocol.correlation_maker import complex_product, dealer_bytes, harmonic_factors, looked_up_factors
from secp_spu.runtime import Correlations

pytestmark = pytest.mark.smoke

SOURCES = ("joint", "dealt")


def mask_error(setting, source, factor_bits):
    return joint_error_bound(Scheme(*setting), factor_bits) if source == "joint" else dealt_error_bound(factor_bits)


def exact_factors(t, multiples=(1,), turn_bits=36):
    """cos kt and sin kt in float64, from the definition of a turn."""
    turn = 2**turn_bits
    angle = np.stack([(np.uint64(k) * t) % np.uint64(turn) * (2 * np.pi / turn) for k in multiples])
    return np.cos(angle), np.sin(angle)


def make(runtime, shape, **options):
    with runtime.ledger.phase("offline"):
        return runtime.correlations(declare_correlation(shape, **options))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("harmonics", "factor_bits", "turn_bits"),
    [(1, 9, 36), (3, 13, 31), ((1, 3, 5), 18, 36), (1, 27, 45), ((4, 7), 18, 18)],
)
def test_correlation_holds(runtimes, setting, source, harmonics, factor_bits, turn_bits):
    runtime = runtimes(setting, source)
    options = {"harmonics": harmonics, "factor_bits": factor_bits, "turn_bits": turn_bits}
    tree = make(runtime, (11, 3, 5), **options).tree
    assert (tree.factor_bits, tree.turn_bits) == (factor_bits, turn_bits)
    assert tree.multiples == (tuple(range(1, harmonics + 1)) if isinstance(harmonics, int) else harmonics)
    t = peek(runtime, tree.mask)
    assert t.shape == (11, 3, 5)
    bound = mask_error(setting, source, factor_bits)
    for handle, exact in zip((tree.cos, tree.sin), exact_factors(t, tree.multiples, turn_bits), strict=True):
        factor = peek(runtime, handle).view(np.int64) * 2.0**-factor_bits
        assert factor.shape == (len(tree.multiples), 11, 3, 5)
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


def test_bounds_grow_with_factors_and_shrink_with_bits():
    for bits in (9, 12, 18, 27):
        assert dealt_error_bound(bits) == 2.0**-bits / 2
        bounds = [joint_error_bound(Scheme("semi2k", parties), bits) for parties in (2, 3, 4)]
        assert dealt_error_bound(bits) < bounds[0] < bounds[1] < bounds[2]
        assert joint_error_bound(Scheme("aby3", 3), bits) == bounds[0]
        assert joint_error_bound(Scheme("aby3", 3), bits + 1) < bounds[0]
    # Two factors, each off by 2**-10 in either part and by half a step of 2**-16 turn.
    one = math.sqrt(2) * 2.0**-10 + math.pi * 2.0**-16
    assert joint_error_bound(Scheme("aby3", 3), 18) == pytest.approx(2 * one + one**2)


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
@pytest.mark.parametrize("factor_bits", [9, 12, 18, 27])
def test_joint_plan_splits_the_bits_that_are_wanted(parties, factor_bits):
    plan = joint_plan(Scheme("semi2k", parties), factor_bits)
    assert len(plan) == parties
    assert sum(plan) == factor_bits
    assert max(plan) - min(plan) <= 1, "the factors are not as equal as can be"


def test_joint_plan_of_the_docstring(scheme):
    assert joint_plan(scheme, 18) == ([6, 6, 6] if scheme == Scheme("semi2k", 3) else [9, 9])
    assert joint_plan(Scheme("semi2k", 4), 18) == [5, 5, 4, 4]


def test_declare_correlation_says_shape_and_bits():
    declared = jax.eval_shape(lambda: declare_correlation((2, 3), harmonics=5, factor_bits=12))
    assert (declared.mask.shape, declared.cos.shape, declared.sin.shape) == ((2, 3), (5, 2, 3), (5, 2, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(declared)} == {np.dtype(np.int32)}
    assert (declared.factor_bits, declared.harmonics) == (12, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor_bits": 8}, "factor_bits is 8, allowed are 9 to 27"),
        ({"factor_bits": 28}, "factor_bits is 28, allowed are 9 to 27"),
        ({"turn_bits": 17}, "turn_bits is 17, allowed are 18 to 64"),
        ({"turn_bits": 65}, "turn_bits is 65, allowed are 18 to 64"),
        ({"harmonics": 0}, "harmonics is 0, at least 1 is needed"),
    ],
)
def test_declare_correlation_refuses_what_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        declare_correlation((2, 3), **options)


@pytest.mark.parametrize("shape", [(7,), (5, 13)])
@pytest.mark.parametrize("harmonics", [1, 3])
def test_joint_correlations_cost(runtimes, setting, shape, harmonics):
    """ABY3: 16 bytes and a message of every rank. SEMI2K: three multiplications in one go for every further party."""
    runtime = runtimes(setting)
    _, cost = cost_of(runtime, lambda: make(runtime, shape, harmonics=harmonics), "offline")
    elements = harmonics * math.prod(shape)
    (multiply, sends), products = MULTIPLY[setting], setting[1] - 1
    assert cost == ((48 * elements, 3) if setting == ABY3 else (products * elements * 3 * multiply, products * sends))


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
        aby3.run("copy", lambda given, _: copy_of(given), getattr(correlation.tree, part), correlation.tree)
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
        replace(first.tree, cos=second.tree.cos, sin=second.tree.sin),
        replace(first.tree, cos=first.tree.sin, sin=first.tree.cos),
        replace(first.tree, mask=second.tree.mask),
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
    with pytest.raises(SpentCorrelationError, match="not made by this runtime's correlations"):
        aby3.run("rotate", rotate, x, w, other)


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


def exchanged(makers, wanted):
    """All ranks' shares of one correlation of ABY3, and the messages between them: {(sender, receiver): elements}."""
    exchanges = [maker.exchange(wanted) for maker in makers]
    received, messages = [None] * 3, {}
    for routes in ROUNDS:
        sent = [exchange.send(message) for exchange, message in zip(exchanges, received, strict=True)]
        assert {rank for rank, message in enumerate(sent) if message is not None} == set(routes)
        received = [None] * 3
        for sender, receiver in routes.items():
            received[receiver] = messages[sender, receiver] = sent[sender]
    shares = [finish_exchange(*ended) for ended in zip(exchanges, received, strict=True)]
    return shares, messages


def known_to(scheme, rank, share):
    """The sum of the components that a rank holds."""
    return sum(scheme.components(rank, share).values(), start=np.uint64(0))


def joint_masks(scheme, makers, wanted):
    if scheme.replicated:
        return [mask for mask, _, _ in exchanged(makers, wanted)[0]]
    return [maker.factors(wanted).mask for maker in makers]


def test_what_a_party_misses_of_a_joint_mask_is_uniform(scheme, makers):
    """t less all that one party knows of it."""
    shares = joint_masks(scheme, makers, declare_correlation((4099,)))
    t = scheme.reconstruct(shares)
    for rank, share in enumerate(shares):
        assert are_uniform(t - known_to(scheme, rank, share))


# ABY3's exchange

REPLICATED = Scheme("aby3", 3)


class Recorded:
    """A stream that keeps what it has given."""

    def __init__(self, stream):
        self._stream, self.drawn = stream, []

    def draw(self, shape):
        self.drawn.append(self._stream.draw(shape))
        return self.drawn[-1]


class Fixed:
    """A stream whose first elements are all the same; those after them come from another."""

    def __init__(self, first, stream):
        self._first, self._stream = first, stream

    def draw(self, shape):
        if self._first is None:
            return self._stream.draw(shape)
        first, self._first = np.full(shape, self._first, np.uint64), None
        return first


class Narrow:
    """A stream of 32 bits: what must not pass for a mask."""

    def __init__(self, stream):
        self._stream = stream

    def draw(self, shape):
        return self._stream.draw(shape) >> np.uint64(32)


def makers_of(by_rank):
    return [CorrelationMaker(REPLICATED, rank, streams) for rank, streams in enumerate(by_rank)]


@pytest.mark.parametrize(("harmonics", "factor_bits"), [(1, 18), (3, 19)])
def test_every_message_is_masked_by_elements_of_its_own(harmonics, factor_bits):
    """The protocol word by word, from what each rank has drawn from each stream."""
    by_rank = [{c: Recorded(stream) for c, stream in streams.items()} for streams in party_streams(REPLICATED)[0]]
    wanted = declare_correlation((5, 7), harmonics=harmonics, factor_bits=factor_bits, turn_bits=31)
    shares, messages = exchanged(makers_of(by_rank), wanted)

    (t_0, rho_0), (t_1, a_1, rho_1), (t_2,) = (by_rank[c][c].drawn for c in range(3))
    for component in range(3):
        for first, second in zip(*(by_rank[r][component].drawn for r in REPLICATED.holders(component)), strict=True):
            np.testing.assert_array_equal(first, second)
    bits_a, bits_b = joint_plan(REPLICATED, factor_bits)
    a = looked_up_factors(t_0 + t_1, wanted.multiples, bits_a, 31)
    b = looked_up_factors(t_2, wanted.multiples, bits_b, 31)
    assert set(messages) == {(0, 2), (1, 2), (2, 1)}
    np.testing.assert_array_equal(messages[0, 2], a - a_1)
    np.testing.assert_array_equal(messages[1, 2], complex_product(a_1, b) - rho_1)
    np.testing.assert_array_equal(messages[2, 1], complex_product(a - a_1, b) - rho_0)
    drawn = [elements.ravel() for elements in (t_0, t_1, t_2, a_1, rho_0, rho_1)]
    assert np.unique(np.concatenate(drawn)).size == 35 * (3 + 3 * 2 * harmonics), "an element is drawn twice"

    product = complex_product(a, b)
    components = rho_0, rho_1, product - rho_0 - rho_1
    for part, names in enumerate(zip(*shares, strict=True)):
        for rank, share in enumerate(names):
            for number, found in REPLICATED.components(rank, share).items():
                expected = (t_0, t_1, t_2)[number] if part == 0 else components[number][part - 1]
                np.testing.assert_array_equal(found, expected)


def seen_by_receivers(by_rank):
    """4,099 messages of each route, less all that their receiver knows of them."""
    by_rank = [{c: Recorded(stream) for c, stream in streams.items()} for streams in by_rank]
    _, messages = exchanged(makers_of(by_rank), declare_correlation((4099,)))
    b = looked_up_factors(by_rank[1][2].drawn[0], (1,), 9)
    own = {1: by_rank[1][1].drawn[1], 2: messages[0, 2]}  # A' and A''
    return {
        (0, 2): messages[0, 2],
        (1, 2): messages[1, 2] + complex_product(own[2], b),  # A B - rho_1
        (2, 1): messages[2, 1] + complex_product(own[1], b),  # A B - rho_0
    }


def test_messages_are_uniform_and_tell_no_angle():
    """Whatever the component of t that the receiver misses: zero, or a quarter of a turn."""
    for component, routes in ((1, [(0, 2), (1, 2)]), (0, [(2, 1)])):
        seen = []
        for first in (0, 2**34):
            by_rank, _ = party_streams(REPLICATED)
            for rank in REPLICATED.holders(component):
                by_rank[rank][component] = Fixed(first, by_rank[rank][component])
            seen.append(seen_by_receivers(by_rank))
        for route in routes:
            assert are_uniform(seen[0][route])
            assert are_uniform(seen[1][route])
            assert are_alike(seen[0][route], seen[1][route])


@pytest.mark.parametrize(("component", "route"), [(1, (0, 2)), (1, (1, 2)), (0, (2, 1))])
def test_narrower_masks_are_seen_through(component, route):
    """The control: messages masked by 32 bits."""
    by_rank, _ = party_streams(REPLICATED)
    for rank in REPLICATED.holders(component):
        by_rank[rank][component] = Narrow(by_rank[rank][component])
    assert not are_uniform(seen_by_receivers(by_rank)[route])


def test_exchanges_stay_in_step():
    """One after another, of different sizes, and between dealt ones: all holders have drawn the same."""
    makers = makers_of(party_streams(REPLICATED)[0])
    for shape, bits in (((7,), 18), ((3, 5), 9), ((2,), 27)):
        wanted = declare_correlation(shape, factor_bits=bits)
        masks, cos, sin = (REPLICATED.reconstruct(parts) for parts in zip(*exchanged(makers, wanted)[0], strict=True))
        bound = joint_error_bound(REPLICATED, bits)
        for found, exact in zip((cos, sin), exact_factors(masks), strict=True):
            assert np.abs(found.view(np.int64) * 2.0**-bits - exact).max() <= bound
        for maker in makers:
            maker.dealt(wanted, Correction(cos, sin))


def test_a_stream_out_of_step_is_noticed_here():
    """The control: rank 0 has drawn once more from the stream that it shares with rank 1."""
    by_rank, _ = party_streams(REPLICATED)
    by_rank[0][1].draw((1,))
    shares, _ = exchanged(makers_of(by_rank), declare_correlation((101,)))
    mask, cos, _ = (REPLICATED.reconstruct(parts) for parts in zip(*shares, strict=True))
    assert np.abs(cos.view(np.int64) * 2.0**-18 - exact_factors(mask)[0]).max() > 1


def test_an_exchange_has_all_its_rounds():
    maker = makers_of(party_streams(REPLICATED)[0])[0]
    exchange = maker.exchange(declare_correlation((3,)))
    exchange.send(None)
    with pytest.raises(ValueError, match="the exchange has further rounds"):
        finish_exchange(exchange, None)


def test_complex_product():
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-(2**20), 2**20, (2, 3, 7)) for _ in "ab")
    expected = (left[0] + 1j * left[1]) * (right[0] + 1j * right[1])
    found = complex_product(left.view(np.uint64), right.view(np.uint64)).view(np.int64)
    np.testing.assert_array_equal(found, np.stack([expected.real, expected.imag]).astype(np.int64))


# Factors


def test_factors_of_semi2k_are_those_of_the_components():
    scheme = Scheme("semi2k", 3)
    makers = [CorrelationMaker(scheme, rank, streams) for rank, streams in enumerate(party_streams(scheme)[0])]
    wanted = declare_correlation((101,), harmonics=3, factor_bits=20)
    shares = [maker.factors(wanted) for maker in makers]
    for component, bits in enumerate(joint_plan(scheme, 20)):
        t = scheme.components(component, shares[component].mask)[component]
        expected = looked_up_factors(t, wanted.multiples, bits)
        for part, name in enumerate(("cos", "sin")):
            parts = [getattr(share, name)[component] for share in shares]
            np.testing.assert_array_equal(scheme.reconstruct(parts), expected[part])
            for rank, share in enumerate(parts):
                if rank != component:
                    assert not any(elements.any() for elements in scheme.components(rank, share).values())


@pytest.mark.parametrize("turn_bits", [18, 31, 36, 64])
@pytest.mark.parametrize("bits", [3, 9, 14])
def test_factors_are_looked_up_to_their_bits(bits, turn_bits):
    """Rounded once, at the middle of a step of the angle."""
    t = np.frombuffer(np.random.default_rng(bits).bytes(8 * 10007), np.uint64)
    bound = 2.0 ** -(bits + 1) + math.pi * 2.0 ** -(bits + ANGLE_BITS)
    angle = [float(int(k) * int(value) % 2**turn_bits) * (2 * math.pi / 2**turn_bits) for k in (1, 3) for value in t]
    angle = np.array(angle).reshape(2, -1)[:, None]
    found = looked_up_factors(t, (1, 3), bits, turn_bits).view(np.int64) * 2.0**-bits
    error = np.abs(found - np.stack([np.cos(angle), np.sin(angle)])[:, :, 0]).max()
    assert 0.9 * 2.0 ** -(bits + 1) < error <= bound
    middles = np.arange(2 ** (bits + ANGLE_BITS), dtype=np.uint64)
    mean = looked_up_factors(middles, (1,), bits, bits + ANGLE_BITS)
    assert not mean.view(np.int64).sum(-1).any(), "errors at opposite angles do not cancel"


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
