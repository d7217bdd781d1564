"""One run in a cluster from start to end, and what is seen of it from outside."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from small import CONFIG, SMALL, start_apart, tls, wait_for_line

from secp_spu.config import AddressSection, load_config

SETTINGS = [*SMALL, "tuning.generations=3"]


@dataclass(frozen=True)
class WatchedRun:
    """A run from start to end, in which no party has a file that is another's, and what was seen of it.

    Attributes:
        addresses: of the parties.
        statuses: with which they ended.
        servers: host and port of every server of a party's processes, in the middle of the run.
        handshakes: whether bob's two servers take a client, by (server, whose certificate it has).
        received: folder of the messages that each party received: PARTY-PROCESS-NUMBER.
        written: for each party the files of its own output and of Ray's logs.
        out: alice's outputs.
    """

    addresses: dict[str, AddressSection]
    statuses: dict[str, int]
    servers: dict[str, set[tuple[str, str]]]
    handshakes: dict[tuple[str, str], bool]
    received: Path
    written: dict[str, list[Path]]
    out: Path


def watch(folder: Path, authorities: Sequence[Path], embeddings: Path) -> WatchedRun:
    """Run it. The parties' certificates are of the first authority.

    Bob listens elsewhere than where the others reach him, and the environment names proxies that are not there.
    """
    out, received, ray = folder / "run", folder / "received", Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    received.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECP_SPU_TEST_HOOKS", "recorder")
        patch.setenv("SECP_SPU_RECORD", str(received))
        patch.setenv("RAY_TMPDIR", str(ray))  # in /tmp: the paths of Ray's sockets must be short
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        with _start(out, tls(authorities[0]), embeddings) as cluster:
            wait_for_line(cluster.parties["alice"], "untuned")
            servers = {name: _listening(party) for name, party in cluster.parties.items()}
            addresses = load_config(CONFIG, cluster.settings).cluster.addresses
            handshakes = _handshakes(addresses["bob"], authorities)
            wait_for_line(cluster.parties["alice"], "generation   2")
            logs = {name: _logs(ray, party, folder / "ray" / name) for name, party in cluster.parties.items()}
            statuses = cluster.wait(timeout=200)
    shutil.rmtree(ray, ignore_errors=True)
    for name, paths in logs.items():
        paths.append(out.with_name(f"{out.name}.logs") / f"{name}.log")
    return WatchedRun(addresses, statuses, servers, handshakes, received, logs, out)


def _start(out, tls_setting, embeddings):
    ports = {key: _free_port() for key in ("control", "compute")}
    reached = [f"cluster.addresses.bob.{key}=127.0.0.1:{port}" for key, port in ports.items()]
    listen = [f"--set=cluster.addresses.bob.listen.{key}=0.0.0.0:{port}" for key, port in ports.items()]
    return start_apart(out, [*SETTINGS, tls_setting, *reached], embeddings, ports=["alice", "carol"], bob=listen)


def _logs(ray, party, copies):
    """Copies of what Ray has logged for a party, which goes with the run."""
    copies.mkdir(parents=True)
    found = []
    for number, path in enumerate(ray.glob(f"ray/session_*_{party.process.pid}/logs/**/*")):
        if path.is_file():
            found.append(Path(shutil.copyfile(path, copies / f"{number}-{path.name}")))
    return found


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


def _handshakes(bob, authorities):
    """Those of `WatchedRun`; what is taken comes last, so that the server is known to have been there throughout."""
    ours, theirs = authorities
    found = {}
    for server in (bob.control, bob.compute):
        found[server, "theirs"] = _shakes_hands(server, theirs, ca=ours, seconds=30)
        found[server, "none"] = _shakes_hands(server, None, ca=ours, seconds=30)
        found[server, "ours"] = _shakes_hands(server, ours, ca=ours, seconds=3)
    return found


def _shakes_hands(address, folder=None, *, ca, seconds):
    """Whether a server, whose certificate names bob, takes a client with the certificate of `folder` or with none.

    A server that refuses a client does so within some seconds.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{ca}/ca.pem")
    context.set_alpn_protocols(["h2"])
    if folder:
        context.load_cert_chain(f"{folder}/carol.pem", f"{folder}/carol.key")
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="bob") as secured,
        ):
            secured.settimeout(seconds)
            try:
                return secured.recv(1) != b""  # TLS 1.3 refuses a client's certificate after its handshake
            except TimeoutError:
                return True  # it waits for us to speak
    except (ssl.SSLError, ConnectionError):
        return False
