import json
import time

import numpy as np
import pytest
from parties import ABY3, MULTIPLY, SEMI2K_2, SEMI2K_3, TRUNCATE, cost_of, opened, put, shared, times

from secp_spu.bench.scaling import LAYER_PROGRAMS
from secp_spu.protocol import cos_sin, declare_correlation
from secp_spu.runtime import Ledger, LocalRuntime
from secp_spu.runtime.ledger import Cost

ZERO = {"bytes": 0, "bytes_total": 0, "sends": 0, "seconds": 0}


# The books


def booked(ledger, program="f", *rows):
    with ledger.timed(program) as found:
        found += rows


def test_phases_nest_and_end_with_their_block():
    ledger = Ledger(2)
    booked(ledger, "a", ("op", Cost(2, 2)))
    with ledger.phase("setup"):
        booked(ledger, "b", ("op", Cost(4, 2)))
        with ledger.phase("offline"):
            booked(ledger, "c", ("op", Cost(8, 2)))
        booked(ledger, "b", ("op", Cost(16, 2)))
    with pytest.raises(KeyError), ledger.phase("offline"):
        raise KeyError
    booked(ledger, "a", ("op", Cost(32, 2)))
    report = ledger.report()
    assert list(report) == ["setup", "offline", "online"]
    assert {phase: line["bytes_total"] for phase, line in report.items()} == {"setup": 20, "offline": 8, "online": 34}
    assert {phase: list(line["programs"]) for phase, line in report.items()} == {
        "setup": ["b"],
        "offline": ["c"],
        "online": ["a"],
    }


def test_report_has_means_and_sums():
    ledger = Ledger(3)
    booked(ledger, "f", ("multiply", Cost(300, 6, 0.5)), ("reveal", Cost(100, 1, 0.25)), ("multiply", Cost(1, 1, 1)))
    booked(ledger, "g", ("reveal", Cost(500, 2)))
    online = ledger.report()["online"]
    assert (online["bytes_total"], online["bytes"], online["sends"]) == (901, 901 / 3, 10 / 3)
    # The largest first.
    assert list(online["operations"]) == ["reveal", "multiply"]
    assert online["operations"]["multiply"] == {"bytes": 301 / 3, "bytes_total": 301, "sends": 7 / 3, "seconds": 1.5}
    assert list(online["programs"]) == ["g", "f"]
    assert online["programs"]["f"]["bytes_total"] == 401
    for phase in ("setup", "offline"):
        assert ledger.report()[phase] == ZERO | {"operations": {}, "programs": {}}


def test_seconds_are_those_of_the_block():
    ledger = Ledger(2)
    start = time.perf_counter()
    with ledger.timed("f"):
        time.sleep(0.05)
    spent = time.perf_counter() - start
    assert 0.05 <= ledger.report()["online"]["seconds"] <= spent
    assert ledger.report()["online"]["programs"]["f"]["seconds"] >= 0.05


def book_and_fail(ledger):
    with ledger.timed("f") as rows:
        rows.append(("op", Cost(1, 1)))
        raise KeyError


def test_what_fails_is_not_booked():
    ledger = Ledger(2)
    with pytest.raises(KeyError):
        book_and_fail(ledger)
    assert ledger.report()["online"] == ZERO | {"operations": {}, "programs": {}}


def test_a_restored_ledger_goes_on():
    ledger = Ledger(3)
    with ledger.phase("offline"):
        booked(ledger, "f", ("multiply", Cost(300, 6, 0.5)))
    booked(ledger, "g", ("reveal", Cost(30, 3, 0.5)))
    # By way of a file, as in a checkpoint.
    state = json.loads(json.dumps(ledger.state()))
    restored = Ledger(3)
    restored.restore(state)
    assert restored.report() == ledger.report()

    booked(restored, "g", ("reveal", Cost(3, 3, 0.5)))
    assert restored.report()["online"]["operations"]["reveal"]["bytes_total"] == 33
    assert restored.report()["offline"] == ledger.report()["offline"]
    assert state == ledger.state(), "the checkpoint has changed with the ledger"


def test_the_current_phase_is_known():
    ledger = Ledger(2)
    seen = [ledger.current]
    with ledger.phase("setup"):
        with ledger.phase("offline"):
            seen.append(ledger.current)
        seen.append(ledger.current)
    with pytest.raises(KeyError), ledger.phase("offline"):
        raise KeyError
    assert [*seen, ledger.current] == ["online", "offline", "setup", "online"]


def test_the_ledgers_of_all_parties_add_up():
    """Bytes and messages are summed; seconds are the mean, for the parties work at the same time."""
    states = []
    for rank in range(3):
        party = Ledger(1)
        with party.phase("offline"):
            booked(party, "f", ("multiply", Cost(100 * rank, rank, 0.5 * rank)))
        booked(party, "g", ("reveal", Cost(7, 1, 3.0)), *([("multiply", Cost(5, 1, 0.75))] if rank else []))
        states.append(json.loads(json.dumps(party.state())))
        states[-1]["online"]["total"]["seconds"] = states[-1]["online"]["programs"]["g"]["seconds"] = 3.0 * rank
    ledger = Ledger(3)
    booked(ledger, "g", ("reveal", Cost(1000, 10, 1.0)))
    own_seconds = ledger.report()["online"]["seconds"]
    for state in states:
        ledger.add(state)
    report = ledger.report()
    multiply = report["offline"]["operations"]["multiply"]
    assert multiply == {"bytes": 100, "bytes_total": 300, "sends": 1, "seconds": 0.5}
    assert list(report["offline"]["programs"]) == ["f"]
    online = report["online"]
    assert (online["bytes_total"], online["sends"]) == (1000 + 3 * 7 + 2 * 5, (10 + 3 + 2) / 3)
    assert online["operations"]["reveal"] == {"bytes": 1021 / 3, "bytes_total": 1021, "sends": 13 / 3, "seconds": 4.0}
    assert online["operations"]["multiply"]["seconds"] == 0.5
    assert online["seconds"] == pytest.approx(own_seconds + 3.0, abs=1e-5)
    assert report["setup"] == ZERO | {"operations": {}, "programs": {}}


def test_add_leaves_the_partys_figures_alone():
    party, ledger = Ledger(1), Ledger(2)
    booked(party, "f", ("multiply", Cost(8, 1, 1.0)))
    state = party.state()
    kept = json.dumps(state)
    for _ in range(2):
        ledger.add(state)
    booked(ledger, "f", ("multiply", Cost(8, 1, 1.0)))
    assert json.dumps(state) == kept
    assert ledger.report()["online"]["operations"]["multiply"]["bytes_total"] == 24


# Known costs


def product(a, b):
    return a * b


def matrix_product(a, b):
    return a @ b


@pytest.mark.parametrize("size", [7, 101])
def test_a_product_costs_what_spu_says(setting, runtime, size):
    """Integers are multiplied; fixed-point numbers truncated too."""
    for dtype, operations in ((np.int32, ["multiply"]), (np.float32, ["multiply", "truncate"])):
        handles = put(runtime, np.arange(size), dtype), put(runtime, np.arange(size), dtype)
        _, cost = cost_of(runtime, lambda: runtime.run("product", product, *handles))  # noqa: B023
        table = {"multiply": MULTIPLY[setting], "truncate": TRUNCATE[setting]}
        assert cost == times(size, *(table[name] for name in operations))


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 5, 7), (11, 13, 2)])
def test_a_matrix_product_costs_what_spu_says(setting, runtime, rows, inner, columns):
    """SEMI2K opens both operands to every other party; ABY3 sends by the elements of the result."""
    handles = put(runtime, np.ones((rows, inner), int)), put(runtime, np.ones((inner, columns), int))
    _, cost = cost_of(runtime, lambda: runtime.run("matrix_product", matrix_product, *handles))
    opened_bytes = 8 * (rows * inner + inner * columns)
    expected = {
        ABY3: (24 * rows * columns, 3),
        SEMI2K_2: (2 * 1 * opened_bytes, 2),
        SEMI2K_3: (3 * 2 * opened_bytes, 6),
    }
    assert cost == expected[setting]


@pytest.mark.parametrize("size", [7, 101])
def test_share_sends_every_party_its_components(setting, runtime, size):
    """8 bytes an element and component: two components a party under ABY3, one under SEMI2K. One message a party."""
    _, cost = cost_of(runtime, lambda: shared(runtime, np.ones(size, np.float32)))
    parties = setting[1]
    assert cost == (8 * size * parties * (2 if setting == ABY3 else 1), parties)
    _, cost = cost_of(runtime, lambda: shared(runtime, [np.ones(size, np.int32)] * 3))
    assert cost == (3 * 8 * size * parties * (2 if setting == ABY3 else 1), 3 * parties)


@pytest.mark.parametrize("size", [7, 101])
def test_open_to_takes_one_component_of_every_party(setting, runtime, size):
    """8 bytes an element and party, one message a party and array."""
    handles = shared(runtime, [np.ones(size, np.float32)] * 2)
    _, cost = cost_of(runtime, lambda: opened(runtime, handles))
    parties = setting[1]
    assert cost == (2 * 8 * size * parties, 2 * parties)


def test_publish_and_free_cost_nothing(runtime):
    _, cost = cost_of(runtime, lambda: runtime.free(runtime.publish(np.ones(7, np.float32))))
    assert cost == (0, 0)


@pytest.mark.parametrize("source", ["joint", "dealt"])
def test_operations_and_programs_add_up_to_the_phase(setting, source):
    with LocalRuntime(*setting, correlations=source) as runtime:
        with runtime.ledger.phase("setup"):
            x = shared(runtime, np.ones((3, 2), np.float32))
        w = runtime.publish(np.ones((2, 5), np.float32))
        with runtime.ledger.phase("offline"):
            correlation = runtime.correlations(declare_correlation((3, 5)))
        opened(runtime, runtime.run("cos_sin", cos_sin, x, w, correlation))
        report = runtime.ledger.report()
    for line in report.values():
        assert line["bytes"] == line["bytes_total"] / setting[1]
        for parts in ("operations", "programs"):
            for unit in ("bytes_total", "sends"):
                assert sum(part[unit] for part in line[parts].values()) == pytest.approx(line[unit], abs=1e-9)
    assert set(report["setup"]["programs"]) == {"share"}
    by_joint = {"correlate"} if setting == ABY3 else {"draw", "combine"}
    assert set(report["offline"]["programs"]) == (by_joint if source == "joint" else {"deal"})
    assert set(report["offline"]["programs"]) <= LAYER_PROGRAMS, "scaling would count them once a model"
    assert set(report["online"]["programs"]) == {"cos_sin", "open_to"}
    assert {"spu.reveal", "open_to"} <= set(report["online"]["operations"])
    assert "free" not in report["online"]["operations"]
