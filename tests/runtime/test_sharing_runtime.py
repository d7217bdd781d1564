"""What a runtime asks its parties for, whoever they are."""

import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, SEMI2K_3

from secp_spu.protocol import Scheme, SpentCorrelationError, declare_correlation
from secp_spu.runtime import AuditRuntime, Owned


class Asked(AuditRuntime):
    """Notes what the parties are asked for; the dealer's correction is a word."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked = []

    def _ask_all(self, method, *args, each=None):
        self.asked.append((method, args, each))
        return super()._ask_all(method, *args, each=each)

    def _split_at_owner(self, values):
        specs, _ = super()._split_at_owner(values)
        return specs, [
            (1, [f"{number}, {rank}" for rank in range(self.parties)]) for number in range(len(values.value))
        ]

    def _correct(self, _wanted):
        return "correction"

    @property
    def methods(self):
        return [method for method, *_ in self.asked]


def test_values_go_to_the_parties_and_come_back():
    with Asked(*ABY3) as runtime:
        x, y = runtime.share(Owned("alice", [np.ones(3, np.float32), np.ones(2, np.int32)]))
        w = runtime.publish(np.ones(5, np.float32))
        runtime.open_to("bob", [y, x])
        runtime.free([x, w])
        assert runtime.asked[0] == ("store_secret", ([x.name], [np.float32]), ["0, 0", "0, 1", "0, 2"])
        assert runtime.asked[1] == ("store_secret", ([y.name], [np.int32]), ["1, 0", "1, 1", "1, 2"])
        method, (names, (value,)), _ = runtime.asked[2]
        assert (method, names, value.tolist()) == ("store_public", [w.name], [1] * 5)
        assert runtime.asked[3:] == [("parts", ([y.name, x.name],), None), ("free", ([x.name, w.name],), None)]


def test_nobody_is_asked_to_delete_or_to_keep_nothing():
    with Asked(*ABY3) as runtime:
        runtime.free({})
        assert runtime.publish([]) == []
        assert runtime.asked == []


@pytest.mark.parametrize(
    ("setting", "source", "methods"),
    [
        (ABY3, "joint", ["correlate"]),
        (SEMI2K_2, "joint", ["draw", "free"]),
        (SEMI2K_3, "joint", ["draw", "free"]),
        (ABY3, "dealt", ["deal"]),
        (SEMI2K_3, "dealt", ["deal"]),
    ],
)
def test_correlations_are_made_as_the_protocol_and_the_source_say(setting, source, methods):
    with Asked(*setting, correlations=source) as runtime:
        made = runtime.correlations({"a": declare_correlation((3,)), "b": declare_correlation((5,), harmonics=2)})
        assert runtime.methods == methods * 2
        assert set(made.tree) == {"a", "b"}
        with pytest.raises(SpentCorrelationError, match="nobody may see it"):
            runtime.open_to("alice", made.tree["a"].mask)
        if source == "dealt":
            (_, (wanted, names), received), _ = runtime.asked
            assert wanted.mask.shape == (3,)
            assert names.mask == made.tree["a"].mask.name
            holders = Scheme(*setting).holders(setting[1] - 1)
            assert received == ["correction" if rank in holders else None for rank in range(setting[1])]
