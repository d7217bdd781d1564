"""Real processes that are killed, kept away, or told different things: who ends how, and how the run goes on."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from cluster_on_this_machine import Cluster
from small import CONFIG, SEED, SMALL, errors_at_end, tune_in_plaintext, wait_for_line

from secp_spu.tuning import RunRecord

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=3", "tuning.prompt_tokens=4"]

END_SECONDS = 45
"""A party that has gone is missed after 10 s; another 5 s of lingering, and time to end on a busy machine."""

START_SECONDS = 150
"""The same for parties that first have to start, three at once."""


def _start(out, *, alice=()):
    return Cluster(CONFIG, out, SETTINGS, own={"alice": [f"--set={SEED}", *alice]}, quiet=True)


def _undisturbed(folder):
    """The same run in plaintext, which proposes the same candidates (test_tune)."""
    tune_in_plaintext(folder, SETTINGS)
    return [generation.candidates for generation in RunRecord.load(folder).generations]


def test_whose_process_is_killed_is_named_and_the_run_goes_on_as_if_undisturbed(tmp_path):
    out, expected = tmp_path / "run", _undisturbed(tmp_path / "plaintext")

    with _start(out) as cluster:  # in the second generation carol's SPU process is killed, and nothing else of hers
        wait_for_line(cluster.parties["alice"], "generation   1:")
        time.sleep(1)
        workers = [p for p in cluster.parties["carol"].processes() if "_SpuParty" in " ".join(p.cmdline())]
        assert len(workers) == 1
        workers[0].send_signal(signal.SIGKILL)
        errors = errors_at_end(cluster, {"alice": 1, "bob": 1, "carol": 1}, END_SECONDS)
        assert "carol failed: a process of it has ended, not for lack of memory" in errors["carol"]
        assert all("carol has gone" in errors[name] for name in ("alice", "bob")), errors
        assert not any(party.processes() for party in cluster.parties.values())
    assert [g.candidates for g in RunRecord.load(out).generations] == expected[:1]

    with _start(out, alice=["--resume"]) as cluster:  # in the third the data owner is killed
        wait_for_line(cluster.parties["alice"], "generation   2:")
        time.sleep(1)
        cluster.parties["alice"].process.kill()
        errors = errors_at_end(cluster, {"alice": -signal.SIGKILL, "bob": 1, "carol": 1}, END_SECONDS)
        assert all("alice has gone" in errors[name] for name in ("bob", "carol")), errors
    assert [g.candidates for g in RunRecord.load(out).generations] == expected[:2]

    with _start(out, alice=["--resume"]) as cluster:
        assert cluster.wait(timeout=180) == {"alice": 0, "bob": 0, "carol": 0}
    record = RunRecord.load(out)
    assert [g.candidates for g in record.generations] == expected
    assert record.accuracy_after is not None


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_script_leaves_no_process_behind(tmp_path, number):
    arguments = [f"--set={setting}" for setting in SETTINGS]
    script = [sys.executable, "scripts/cluster_on_this_machine.py", "--config", CONFIG, "--out", tmp_path / "run"]
    with subprocess.Popen(
        [*script, *arguments],
        env=os.environ | {"TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        mark, end = f"secp-spu-{running.pid}-", time.monotonic() + START_SECONDS
        while len(_marked(mark)) < 9:  # all parties start their Rays, which are some processes each
            assert time.monotonic() < end
            time.sleep(0.2)
        (keys,) = tmp_path.glob("secp-spu-tls-*")
        assert keys.stat().st_mode & 0o777 == 0o700
        os.kill(running.pid, number)
        running.communicate(timeout=30)
    assert running.returncode == 1
    assert not _marked(mark)
    assert not keys.exists()


def _marked(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SECP_SPU_CLUSTER_MARK", "").startswith(mark):
                found.append(process)
        except psutil.Error:
            continue
    return found
