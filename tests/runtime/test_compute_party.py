"""An owner's two ends of a value's way to the compute parties and back, without the parties."""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np
import pytest
from parties import ABY3, SETTINGS, ULP

from secp_spu.protocol import (
    CorrelationMaker,
    CosineCorrelation,
    MaskStream,
    Scheme,
    declare_correlation,
    joint_error_bound,
    party_streams,
)
from secp_spu.runtime import Spec
from secp_spu.runtime.compute_party import ComputeParty, join, split, spu_config, spu_settings

VALUES = [np.float32([[0, 1, -2.5], [ULP, -ULP, 2.0**44]]), np.int32([-1, 2**31 - 1]), np.zeros((0, 3), np.float32)]
SPECS = [Spec(value.shape, value.dtype, True) for value in VALUES]
DTYPES = [value.dtype for value in VALUES]


class FakeSpu:
    """Variables by name, as SPU's runtime keeps them; it runs nothing."""

    def __init__(self):
        self.kept = {}

    def set_var(self, name, share):
        self.kept[name] = share

    def get_var(self, name):
        return self.kept[name]

    def del_var(self, name):
        del self.kept[name]


@pytest.fixture
def scheme(setting):
    return Scheme(*setting)


class FakeLink:
    """Queues of messages between ranks, as SPU's link has them."""

    def __init__(self, rank, queues):
        self.rank, self._queues, self.sent = rank, queues, []

    def spawn(self):
        return self

    def send(self, receiver, message):
        self.sent.append((receiver, len(message)))
        self._queues[self.rank, receiver].put(message)

    def recv(self, sender):
        return self._queues[sender, self.rank].get(timeout=10)


@pytest.fixture
def links(scheme):
    queues = defaultdict(Queue)
    return [FakeLink(rank, queues) for rank in range(scheme.parties)]


@pytest.fixture
def parties(scheme, links):
    by_rank, _ = party_streams(scheme)
    return [ComputeParty(scheme, rank, FakeSpu(), links[rank], streams=by_rank[rank]) for rank in range(scheme.parties)]


def everywhere(parties, task):
    """A task at all parties at once."""
    with ThreadPoolExecutor(len(parties)) as threads:
        return list(threads.map(task, parties))


def test_join_undoes_split(scheme):
    by_rank = split(VALUES, scheme, MaskStream())
    parts = [[components[rank] for components in of_rank] for rank, of_rank in enumerate(by_rank)]
    for value, back in zip(VALUES, join(parts, SPECS), strict=True):
        assert back.dtype == value.dtype
        np.testing.assert_array_equal(back, value)


def test_split_gives_a_rank_what_it_holds_and_no_more(scheme):
    """Two zeros are shared by elements that all differ. Chance of a false alarm: 2**15 pairs, 2**-64 each."""
    drawn = {}
    for rank, of_rank in enumerate(split([np.zeros(37, np.float32)] * 2, scheme, MaskStream())):
        for number, components in enumerate(of_rank):
            assert tuple(components) == scheme.held_by(rank)
            for component, elements in components.items():
                np.testing.assert_array_equal(drawn.setdefault((number, component), elements), elements)
    assert len(drawn) == 2 * scheme.parties
    assert np.unique(list(drawn.values())).size == 2 * scheme.parties * 37


def test_split_refuses_a_value_out_of_range(scheme):
    with pytest.raises(ValueError, match="values must be finite"):
        split([np.float32([np.nan])], scheme, MaskStream())


def test_what_parties_store_they_give_back(scheme, parties):
    names = ["a", "b", "c"]
    sent = [
        party.store_secret(names, DTYPES, parts)
        for party, parts in zip(parties, split(VALUES, scheme, MaskStream()), strict=True)
    ]
    assert sent == [8 * len(scheme.held_by(0)) * sum(value.size for value in VALUES)] * scheme.parties
    for value, back in zip(VALUES, join([party.parts(names) for party in parties], SPECS), strict=True):
        np.testing.assert_array_equal(back, value)


def test_what_is_public_is_given_back_once(parties):
    for party in parties:
        party.store_public(["a", "b"], VALUES[:2])
    for value, back in zip(VALUES[:2], join([party.parts(["a", "b"]) for party in parties], SPECS[:2]), strict=True):
        np.testing.assert_array_equal(back, value)


def test_free_deletes(parties):
    party = parties[0]
    party.store_public(["a", "b"], VALUES[:2])
    party.free(["a"])
    assert list(party._spu.kept) == ["b"]


def test_a_name_too_few_is_refused(parties):
    with pytest.raises(ValueError, match="zip"):
        parties[0].store_public(["a"], VALUES[:2])


def test_joint_masks_are_of_all_parties_and_fresh(scheme, parties):
    """Every party's part of two masks, and the masks: all elements differ. Chance of a false alarm: 2**16 * 2**-64."""
    wanted, drawn = declare_correlation((37,)), []
    factors = [[f"{kind}{rank}" for rank in range(scheme.parties)] for kind in ("cos", "sin")]
    for name in ("first", "second"):
        if scheme.replicated:
            everywhere(parties, lambda party: party.correlate(wanted, CosineCorrelation(name, "cos", "sin")))  # noqa: B023
        else:
            everywhere(parties, lambda party: party.draw(wanted, name, *factors))  # noqa: B023
        parts = [party.parts([name])[0] for party in parties]
        drawn += [*parts, np.add.reduce(parts)]
    assert np.unique(drawn).size == 2 * (scheme.parties + 1) * 37


@pytest.mark.parametrize("setting", [ABY3])
def test_parties_correlate_by_three_messages(parties, links):
    """From rank 0 to 2, then between 1 and 2; 16 bytes an element each. All parties report what they sent."""
    wanted = declare_correlation((5, 7), harmonics=3)
    sent = everywhere(parties, lambda party: party.correlate(wanted, CosineCorrelation("mask", "cos", "sin")))
    size = 16 * 3 * 35
    assert [link.sent for link in links] == [[(2, size)], [(2, size)], [(1, size)]]
    assert sent == [[size]] * 3
    t, cos, sin = (np.add.reduce([party.parts([name])[0] for party in parties]) for name in ("mask", "cos", "sin"))
    angle = (t % np.uint64(2**36)) * (2 * np.pi / 2**36) * np.arange(1, 4).reshape(3, 1, 1)
    for found, exact in ((cos, np.cos(angle)), (sin, np.sin(angle))):
        assert np.abs(found.view(np.int64) * 2.0**-18 - exact).max() <= joint_error_bound(Scheme(*ABY3), 18)


def test_a_party_keeps_streams_of_its_own_components_alone(scheme, parties):
    for rank, party in enumerate(parties):
        assert isinstance(party._maker, CorrelationMaker)
        assert set(party._maker._streams) == set(scheme.held_by(rank))


@pytest.mark.parametrize("setting", SETTINGS)
def test_spu_takes_the_settings(setting):
    """They travel to other machines as JSON."""
    scheme = Scheme(*setting)
    assert json.loads(json.dumps(spu_settings(scheme))) == spu_settings(scheme)
    config = spu_config(scheme)
    assert (config.protocol, config.fxp_fraction_bits, config.enable_pphlo_profile) == (scheme.kind, 18, True)
