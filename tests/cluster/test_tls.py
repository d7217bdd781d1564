"""TLS between real processes: who has the authority's certificate takes part, nobody else does."""

import socket
import ssl
import subprocess
import sys
import time

import pytest
from cluster_on_this_machine import Cluster
from small import CONFIG, SMALL

from secp_spu.config import load_config

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=1", "cluster.start_seconds=20"]
PARTIES = ("alice", "bob", "carol")


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """Two folders with certificates of two authorities."""
    made = [tmp_path_factory.mktemp("tls") / name for name in ("ours", "theirs")]
    for folder in made:
        command = [sys.executable, "scripts/make_test_ca.py", "--config", CONFIG, "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        assert all((folder / f"{party}.key").stat().st_mode & 0o777 == 0o600 for party in ("ca", *PARTIES))
    return made


def _tls(folder):
    paths = f"ca: {folder}/ca.pem, certificate: '{folder}/{{party}}.pem', key: '{folder}/{{party}}.key'"
    return f"cluster.tls={{{paths}}}"


def _shakes_hands(address, folder=None, ca=None):
    """Whether a server takes a client with the certificate of `folder`, or with none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{ca}/ca.pem")
    context.set_alpn_protocols(["h2"])
    if folder:
        context.load_cert_chain(f"{folder}/carol.pem", f"{folder}/carol.key")
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.settimeout(3)
            try:
                return secured.recv(1) != b""  # TLS 1.3 refuses a client's certificate after its handshake
            except TimeoutError:
                return True  # it waits for us to speak
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_cluster_with_tls_and_who_may_connect_to_it(authorities, tmp_path):
    ours, theirs = authorities
    with Cluster(CONFIG, tmp_path / "run", [*SETTINGS, "tuning.generations=3", _tls(ours)], quiet=True) as cluster:
        alice, end = cluster.parties["alice"], time.monotonic() + 120
        while not any("untuned" in line for line in alice.lines):
            assert alice.process.poll() is None, alice.lines
            assert time.monotonic() < end, alice.lines
            time.sleep(0.1)
        addresses = load_config(CONFIG, [*cluster.settings, "cluster.tls=null"]).cluster.addresses
        for server in (addresses["bob"].control, addresses["bob"].compute):
            assert _shakes_hands(server, ours, ca=ours), server
            assert not _shakes_hands(server, theirs, ca=ours), server
            assert not _shakes_hands(server, None, ca=ours), server
        assert cluster.wait(timeout=120) == dict.fromkeys(PARTIES, 0)
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("stranger", ["another authority", "plain text"])
def test_a_stranger_is_refused(authorities, tmp_path, stranger):
    ours, theirs = authorities
    carol = [f"--set={_tls(theirs)}" if stranger == "another authority" else "--set=cluster.tls=null"]
    carol += ["--set=cluster.plain_text=true"]
    with Cluster(CONFIG, tmp_path / "run", [*SETTINGS, _tls(ours)], own={"carol": carol}, quiet=True) as cluster:
        assert cluster.wait(timeout=120) == dict.fromkeys(PARTIES, 1)
        for name, party in cluster.parties.items():
            (error,) = [line for line in party.lines if line.startswith("error")]
            assert "still not up" in error, error
            assert ("carol" in error) == (name != "carol"), error
            assert "no TLS connection" in error or (stranger, name) == ("plain text", "carol"), error
            assert not any("untuned" in line for line in party.lines)
    assert not (tmp_path / "run").exists()
