"""Predictions from records made by hand, and one held against parties on relayed links."""

import json
import os

import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from secp_spu.bench.mpc_setting import LEAST_PARTIES, MpcSetting, measure_function
from secp_spu.bench.network_check import LinkedSetting
from secp_spu.bench.network_model import LAN, NETWORKS, WAN1, WAN2, Network, network_cases, network_tables, predict
from secp_spu.bench.processes import ProcessRuntime
from secp_spu.cli.app import main
from secp_spu.errors import ConfigError, RuntimeFailure

PHASE = {"bytes": 26e6, "bytes_total": 78e6, "sends": 80, "seconds": 2.0}
RECORD = {
    "bench": "iteration",
    "variant": "fot",
    "protocol": "aby3",
    "parties": 3,
    "seq_len": 32,
    "offline": {"bytes": 0, "bytes_total": 0, "sends": 0, "seconds": 0.5},
    "online": PHASE,
    "max_abs_error": 0.001,
}
SIZES = {"model": "tiny", "batch": 1, "activation": "relu", "layers": 2, "measured_layers": 2, "extrapolated": False}
STAGES = dict.fromkeys(("forward", "backward", "optimizer"), PHASE)
WHOLE = {**RECORD, **SIZES, "correlations": "joint", "stages": STAGES}
PROBE = {"bench": "accuracy", "variant": "probe", "task": "sst2", "seed": 0, "generations": 0, "model": "softmax"}


def _chain(given, public, correlations, *, secure):  # noqa: ARG001 - the form that measure_function calls
    """Twelve multiplications, each after the one before."""
    x, y = given
    for _ in range(12):
        x = x * y
    return x


CHAIN_INPUTS = np.linspace(-2, 2, 101, dtype=np.float32), np.linspace(0.8, 1.1, 101, dtype=np.float32)


def test_networks_are_the_papers():
    assert [(n.name, n.bits_per_second, n.delay_seconds) for n in NETWORKS] == [
        ("LAN", 3e9, 0.0008),
        ("WAN1", 200e6, 0.04),
        ("WAN2", 100e6, 0.08),
    ]


def test_predict_under_aby3():
    found = predict(PHASE, WAN1, "aby3", 3)
    assert found.compute_seconds == 2
    assert found.latency_seconds == pytest.approx(90 * 0.04)
    assert found.transfer_seconds == pytest.approx(8 * 27e6 / 200e6)
    assert found.seconds == pytest.approx(2 + 3.6 + 1.08)


@pytest.mark.parametrize(("parties", "delays"), [(2, 80), (3, 40), (5, 20)])
def test_predict_under_semi2k_counts_sends_to_one_other_party(parties, delays):
    found = predict(PHASE, WAN2, "semi2k", parties)
    assert found.latency_seconds == pytest.approx(delays * 0.08)
    assert found.transfer_seconds == pytest.approx(8 * 26e6 / 100e6)


def test_network_cases_name_their_source_and_add_up():
    case = network_cases([RECORD])[0]
    assert (case.key["bench"], case.key["variant"]) == ("network", "LAN")
    assert case.key.items() >= {"source_bench": "iteration", "source_variant": "fot", "seq_len": 32}.items()
    assert "max_abs_error" not in case.key
    found = case.measure()
    assert found["offline"]["seconds"] == 0.5
    assert found["seconds"] == pytest.approx(2.5 + 90 * LAN.delay_seconds + 8 * 27e6 / 3e9)
    table = network_tables([{**case.key, **found}])[0]
    assert table.rows[0][0] == "iteration, fot, aby3, seq len 32"


def test_a_record_measured_anew_is_predicted_anew():
    again = {**RECORD, "online": {**PHASE, "seconds": 3.0}}
    first, second = (network_cases([record])[0].key for record in (RECORD, again))
    assert first != second


@pytest.mark.parametrize("records", [[], [{"bench": "accuracy"}], [{**RECORD, "online": 3}]])
def test_records_without_costs_are_refused(records):
    with pytest.raises(ConfigError, match="no record with offline and online costs"):
        network_cases(records)


def test_command_predicts_all_records_and_resumes(tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "iteration.json", tmp_path / "network.json"
    source.write_text(json.dumps([WHOLE, {**PROBE, "accuracy": 0.5, "validation_loss": 0.7}]))
    arguments = ["secp-spu", "bench", "network", "--records", str(source), "--json", str(out)]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert [record["variant"] for record in json.loads(out.read_text())] == ["LAN", "WAN1", "WAN2"]
    assert "WAN2" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--check", "--records", "x.json"], ["--records", "missing.json"]])
def test_bad_input_is_one_line(more, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["secp-spu", "bench", "network", *more])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow("predicted seconds are what slow links take; processes on real delays")
@pytest.mark.parametrize("protocol", ["aby3", "semi2k"])
def test_prediction_against_relayed_links(protocol):
    """Far more delay than this busy machine's own; that the output is right shows that the parties did compute."""
    parties, network = LEAST_PARTIES[protocol], Network("test", 200e6, 0.02)
    base = measure_function(MpcSetting(protocol, parties), "chain", _chain, CHAIN_INPUTS)
    found = measure_function(LinkedSetting(protocol, parties, network=network), "chain", _chain, CHAIN_INPUTS)
    assert found["max_abs_error"] < 1e-3
    assert found["online"]["bytes_total"] == base["online"]["bytes_total"]
    predicted = predict(base["online"], network, protocol, parties).seconds
    assert predicted == pytest.approx(found["online"]["seconds"], rel=0.5)
    assert found["online"]["seconds"] > found["online"]["sends"] / (parties - 1) * 0.02 * 0.9


def test_runtime_leaves_no_process_when_a_party_dies():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    runtime = ProcessRuntime("semi2k", 2, Network("test", 1e9, 0.001))
    started = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert len(started) >= 3
    os.kill(runtime._parties[1]._process.pid, 9)
    with pytest.raises(RuntimeFailure, match="rank 1 failed"):
        runtime.run("ones", lambda: jnp.ones(2))
    runtime.abandon()
    left = {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE} - before
    names = [" ".join(psutil.Process(pid).cmdline()) for pid in left]
    assert not [name for name in names if "resource_tracker" not in name]
