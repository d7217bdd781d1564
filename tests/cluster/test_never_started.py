"""Runs that end where the parties meet, before SecretFlow starts and anything is shared."""

import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import yaml
from cluster_on_this_machine import Cluster
from safetensors.numpy import load_file, save_file
from small import COMMAND, CONFIG, PARTIES, SMALL, errors_at_end, start_apart, tls, tune_in_plaintext

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config, save_config
from secp_spu.tuning import open_run

pytestmark = pytest.mark.slow("the meeting's refusals between real processes, which tests/network has in one")

SETTINGS = [*SMALL, "tuning.generations=1"]
START_SECONDS = 20
"""What parties wait for each other where one never comes; three start at once, on a busy machine."""


def test_a_party_that_never_comes_up(tmp_path):
    out = tmp_path / "run"
    config = load_config(CONFIG, [*SETTINGS, "tuning.seed=4"])
    open_run(out, config, resume=False).save(out)
    before = (out / "checkpoint.json").read_bytes()
    settings = [*SETTINGS, f"cluster.start_seconds={START_SECONDS}"]
    alice = ["--set=tuning.seed=4", "--resume"]
    with Cluster(CONFIG, out, settings, own={"alice": alice}, quiet=True, leave_out=["carol"]) as cluster:
        errors = errors_at_end(cluster, {"alice": 1, "bob": 1})
    for error in errors.values():
        assert f"after {START_SECONDS} s still not up: carol at 127.0.0.1" in error
        assert "connection refused" in error
    assert (out / "checkpoint.json").read_bytes() == before


@pytest.mark.parametrize("transport", ["tls", "plain text"])
def test_a_server_that_is_no_party_ends_the_run_in_time(tmp_path, transport):
    """As an ingress or a gateway at carol's address would."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = [
        *SETTINGS,
        f"cluster.start_seconds={START_SECONDS}",
        f"cluster.addresses.carol.control=127.0.0.1:{port}",
    ]
    if transport == "plain text":
        settings.append("cluster.plain_text=true")
    begun = time.monotonic()
    out = tmp_path / "run"
    with Cluster(CONFIG, out, settings, quiet=True, leave_out=["carol"], ports=["alice", "bob"]) as cluster:
        errors = errors_at_end(cluster, {"alice": 1, "bob": 1})
    server.stop(None)
    why = "no TLS connection" if transport == "tls" else "what answers there is no party of secp_spu that is starting"
    for error in errors.values():
        assert f"after {START_SECONDS} s still not up: carol at 127.0.0.1:{port} ({why}" in error
    assert time.monotonic() - begun < START_SECONDS + 60  # to start Python, twice on a busy machine
    assert not out.exists()
    assert not os.environ.get("SECP_SPU_RAY")


@pytest.mark.parametrize("stranger", ["another authority", "plain text"])
def test_a_stranger_is_refused(authorities, tmp_path, stranger):
    ours, theirs = authorities
    carol = [f"--set={tls(theirs)}" if stranger == "another authority" else "--set=cluster.tls=null"]
    carol += ["--set=cluster.plain_text=true"]
    settings = [*SETTINGS, f"cluster.start_seconds={START_SECONDS}", tls(ours)]
    with Cluster(CONFIG, tmp_path / "run", settings, own={"carol": carol}, quiet=True) as cluster:
        errors = errors_at_end(cluster, dict.fromkeys(PARTIES, 1))
    for name, error in errors.items():
        assert "still not up" in error, error
        assert ("carol" in error) == (name != "carol"), error
        assert "no TLS connection" in error or (stranger, name) == ("plain text", "carol"), error
    assert not (tmp_path / "run").exists()


def test_different_configurations(tmp_path):
    out = tmp_path / "run"
    with Cluster(CONFIG, out, SETTINGS, own={"bob": ["--set=tuning.population=6"]}, quiet=True) as cluster:
        errors = errors_at_end(cluster, dict.fromkeys(PARTIES, 2))
    for error in errors.values():
        assert "configurations differ: tuning.population is" in error
        assert "at bob" in error
    assert not out.exists()


def test_tables_that_differ(tmp_path, embeddings):
    other = tmp_path / "other"
    other.mkdir()
    for path in embeddings.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tensors = load_file(other / "model.safetensors")
    words = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file(tensors | {words: np.ascontiguousarray(tensors[words][::-1])}, other / "model.safetensors")
    with start_apart(tmp_path / "run", SETTINGS, other) as cluster:
        errors = errors_at_end(cluster, dict.fromkeys(PARTIES, 2))
    for error in errors.values():
        assert "model folders differ: embedding table `word` is" in error
        assert "at alice" in error
        assert "at bob" in error
    assert not (tmp_path / "run").exists()


def test_a_prompt_of_another_model_shape(tmp_path):
    """A prediction with a run in whose configuration texts have one token more."""
    run = tmp_path / "run"
    tune_in_plaintext(run, SETTINGS)
    save_config(load_config(CONFIG, SETTINGS), run / "config.yaml")
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["task"]["max_tokens"] += 1
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    texts = shutil.copy(DEMO_CONFIG.parent / "data" / "test.jsonl", tmp_path / "texts.jsonl")
    with Cluster(CONFIG, tmp_path / "out.jsonl", SETTINGS, texts=(run, texts), quiet=True) as cluster:
        errors = errors_at_end(cluster, dict.fromkeys(PARTIES, 2))
    for error in errors.values():
        assert "the parties' configurations differ: task.max_tokens is 1" in error
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("key", ["control", "compute"])
def test_a_port_that_is_taken(key):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [
                COMMAND,
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
