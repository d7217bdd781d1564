"""Real processes against a party that is against them."""

import re

import pytest
from cluster_on_this_machine import Cluster
from small import CONFIG, SMALL

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=1"]


@pytest.mark.parametrize("what", ["payload", "as bob"])
def test_a_hostile_party_is_named_and_runs_nothing(tmp_path, monkeypatch, what):
    monkeypatch.setenv("SECP_SPU_TEST_HOOKS", "hostile")
    monkeypatch.setenv("SECP_SPU_HOSTILE", what)
    monkeypatch.setenv("SECP_SPU_HOSTILE_FOLDER", str(tmp_path))
    with Cluster(CONFIG, tmp_path / "run", SETTINGS, quiet=True) as cluster:
        statuses = cluster.wait(timeout=300)
        errors = {n: [line for line in p.lines if line.startswith("error")] for n, p in cluster.parties.items()}
    assert (tmp_path / "attacked").exists()
    assert statuses["alice"] == 1, errors
    expected = {
        "payload": "error: carol sent a message that was refused: it ",
        "as bob": r"error: carol (sent a message that was bob's to send|and bob sent the same message): it was refused"
        r"|error: bob and carol sent the same message: it was refused",
    }
    assert re.match(expected[what], errors["alice"][0]), errors
    assert len(errors["alice"]) == 1
    assert all(status != 0 for status in statuses.values())
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run" / "report.json").exists()
