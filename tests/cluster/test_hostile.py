"""Real processes against a party, a server or an environment that is against them."""

import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from cluster_on_this_machine import Cluster
from small import CONFIG, SMALL

from secp_spu.config import load_config

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
SETTINGS = [*SMALL, "tuning.generations=1"]
START_SECONDS = 15


@pytest.mark.parametrize("what", ["payload", "as bob"])
def test_a_hostile_party_is_named_and_runs_nothing(tmp_path, monkeypatch, what):
    monkeypatch.setenv("PYTHONPATH", f"{HERE / 'hostile'}:{HERE / 'hooks'}")
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


def test_every_server_is_where_it_should_be_and_no_proxy_is_asked(tmp_path, monkeypatch):
    """All of a cluster's servers, Ray's too, are on 127.0.0.1, but where bob says that he listens elsewhere."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    ports = {key: _free_port() for key in ("control", "compute")}
    settings = [*SETTINGS, *(f"cluster.addresses.bob.{key}=127.0.0.1:{port}" for key, port in ports.items())]
    own = {"bob": [f"--set=cluster.addresses.bob.listen.{key}=0.0.0.0:{port}" for key, port in ports.items()]}
    with Cluster(CONFIG, tmp_path / "run", settings, own=own, quiet=True, ports=["alice", "carol"]) as cluster:
        alice, end = cluster.parties["alice"], time.monotonic() + 200
        while not any("untuned" in line for line in alice.lines):
            assert alice.process.poll() is None, {n: p.lines for n, p in cluster.parties.items()}
            assert time.monotonic() < end
            time.sleep(0.1)
        found = {name: _listening(party) for name, party in cluster.parties.items()}
        statuses = cluster.wait(timeout=200)
    assert statuses == {"alice": 0, "bob": 0, "carol": 0}
    addresses = load_config(CONFIG, cluster.settings).cluster.addresses
    for name, servers in found.items():
        wanted = {address.rpartition(":")[2] for address in (addresses[name].control, addresses[name].compute)}
        assert wanted < {port for _, port in servers}
        assert len(servers) > 8  # Ray's
    everywhere = {(host, port) for servers in found.values() for host, port in servers if host != "127.0.0.1"}
    assert {port for _, port in everywhere} == {str(port) for port in ports.values()}
    assert everywhere <= found["bob"]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listening(party):
    """Host and port of every server of a party's processes."""
    found = set()
    for process in party.processes():
        try:
            connections = process.net_connections("inet")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip.removeprefix("::ffff:"), str(connection.laddr.port)))
    return found


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
        statuses = cluster.wait(timeout=120)
        errors = {n: [line for line in p.lines if line.startswith("error")] for n, p in cluster.parties.items()}
    server.stop(None)
    assert statuses == {"alice": 1, "bob": 1}
    why = "no TLS connection" if transport == "tls" else "what answers there is no party of secp_spu that is starting"
    for found in errors.values():
        assert len(found) == 1
        assert f"after {START_SECONDS} s still not up: carol at 127.0.0.1:{port} ({why}" in found[0]
    assert time.monotonic() - begun < START_SECONDS + 45  # to start Python, twice on a busy machine
    assert not out.exists()
    assert not os.environ.get("SECP_SPU_RAY")
