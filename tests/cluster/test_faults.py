"""Real processes that are killed, kept away, or told different things: who ends how, and how the run goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster_on_this_machine import Cluster
from small import CONFIG, SMALL, tune_in_plaintext

from secp_spu.config import load_config
from secp_spu.tuning import RunRecord, open_run

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=3", "tuning.prompt_tokens=4"]
SEED = "--set=tuning.seed=2"  # alice's alone; its losses have a clear order, see test_tune

END_SECONDS = 45
"""A party that has gone is missed after 10 s; another 5 s of lingering, and time to end on a busy machine."""

START_SECONDS = 150
"""The same for parties that first have to start, three at once."""


def _start(out, *, alice=(), **options):
    own = {"alice": [SEED, *alice]} | options.pop("own", {})
    return Cluster(CONFIG, out, [*SETTINGS, *options.pop("settings", [])], own=own, quiet=True, **options)


def _wait_for(party, text, seconds=180):
    end = time.monotonic() + seconds
    while not any(text in line for line in party.lines):
        assert party.process.poll() is None, party.lines
        assert time.monotonic() < end, party.lines
        time.sleep(0.1)


def _check_ends(cluster, statuses, seconds=END_SECONDS):
    """All parties end within a bounded time with these statuses; returns the error of each, which is one line."""
    start = time.monotonic()
    while None in [party.process.poll() for party in cluster.parties.values()]:
        assert time.monotonic() - start < seconds, {n: p.lines for n, p in cluster.parties.items()}
        time.sleep(0.1)
    cluster.kill()
    assert {name: party.process.returncode for name, party in cluster.parties.items()} == statuses
    errors = {n: [line for line in p.lines if line.startswith("error")] for n, p in cluster.parties.items()}
    for name, status in statuses.items():
        assert len(errors[name]) == (0 if status == -signal.SIGKILL else 1), cluster.parties[name].lines
        assert not any("Traceback" in line for line in cluster.parties[name].lines)
    return {name: found[0] for name, found in errors.items() if found}


def _undisturbed(folder):
    """The same run in plaintext, which proposes the same candidates (test_tune)."""
    tune_in_plaintext(folder, SETTINGS)
    return [generation.candidates for generation in RunRecord.load(folder).generations]


def test_killed_parties_are_named_and_the_run_goes_on_as_if_undisturbed(tmp_path):
    out, expected = tmp_path / "run", _undisturbed(tmp_path / "plaintext")

    with _start(out) as cluster:  # a compute party is killed in the second generation
        _wait_for(cluster.parties["alice"], "generation   1:")
        time.sleep(1)
        cluster.parties["carol"].process.kill()
        errors = _check_ends(cluster, {"alice": 1, "bob": 1, "carol": -signal.SIGKILL})
        assert all("carol has gone" in errors[name] for name in ("alice", "bob")), errors
        assert not any(party.processes() for party in cluster.parties.values())
    assert [g.candidates for g in RunRecord.load(out).generations] == expected[:1]

    with _start(out, alice=["--resume"]) as cluster:  # the data owner is killed in the third
        _wait_for(cluster.parties["alice"], "generation   2:")
        time.sleep(1)
        cluster.parties["alice"].process.kill()
        errors = _check_ends(cluster, {"alice": -signal.SIGKILL, "bob": 1, "carol": 1})
        assert all("alice has gone" in errors[name] for name in ("bob", "carol")), errors
    assert [g.candidates for g in RunRecord.load(out).generations] == expected[:2]

    with _start(out, alice=["--resume"]) as cluster:
        assert cluster.wait(timeout=180) == {"alice": 0, "bob": 0, "carol": 0}
    record = RunRecord.load(out)
    assert [g.candidates for g in record.generations] == expected
    assert record.accuracy_after is not None


def test_the_spu_process_of_a_party_alone_is_killed(tmp_path):
    with _start(tmp_path / "run") as cluster:
        _wait_for(cluster.parties["alice"], "untuned prompt")
        workers = [p for p in cluster.parties["carol"].processes() if "_SpuParty" in " ".join(p.cmdline())]
        assert len(workers) == 1
        workers[0].send_signal(signal.SIGKILL)
        errors = _check_ends(cluster, {"alice": 1, "bob": 1, "carol": 1})
        assert "carol failed: a process of it has ended, not for lack of memory" in errors["carol"]
        assert all("carol has gone" in errors[name] for name in ("alice", "bob")), errors


def test_a_party_that_never_comes_up(tmp_path):
    out = tmp_path / "run"
    config = load_config(CONFIG, [*SETTINGS, "tuning.seed=2"])
    open_run(out, config, resume=False).save(out)
    before = (out / "checkpoint.json").read_bytes()
    settings = ["cluster.start_seconds=15"]
    with _start(out, alice=["--resume"], settings=settings, leave_out=["carol"]) as cluster:
        errors = _check_ends(cluster, {"alice": 1, "bob": 1}, START_SECONDS)
    for error in errors.values():
        assert "after 15 s still not up: carol at 127.0.0.1" in error
        assert "connection refused" in error
    assert (out / "checkpoint.json").read_bytes() == before


def test_different_configurations_are_noticed_before_anything_is_shared(tmp_path):
    out = tmp_path / "run"
    with _start(out, own={"bob": ["--set=tuning.population=6"]}) as cluster:
        errors = _check_ends(cluster, {"alice": 2, "bob": 2, "carol": 2}, START_SECONDS)
    for error in errors.values():
        assert "configurations differ: tuning.population is" in error
        assert "at bob" in error
    assert not out.exists()


@pytest.mark.parametrize("key", ["control", "compute"])
def test_a_port_that_is_taken(key):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [
                Path(sys.executable).parent / "secp-spu",
                *("party", "--config", CONFIG, "--party", "carol", f"--set=cluster.addresses.carol.{key}={address}"),
                "--set=cluster.plain_text=true",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on {address} (cluster.addresses.carol.{key})" in done.stderr
    assert len(done.stderr.splitlines()) == 1


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
