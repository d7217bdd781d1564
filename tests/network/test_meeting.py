"""Parties of one process meet by gRPC: what they learn, who is refused, and what a party says that waits in vain."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tls import Authority

from secp_spu.errors import RuntimeFailure
from secp_spu.network.channels import connect
from secp_spu.network.meeting import MESSAGE_BYTES, METHOD, Meeting

PARTIES = ["alice", "bob", "carol"]
DEADLINE = 20
"""Nothing takes so long on any machine."""


@pytest.fixture
def ports():
    """Addresses that nobody listens at, by party."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for probe in (a, b, c):
            probe.bind(("127.0.0.1", 0))
        return {name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in zip(PARTIES, (a, b, c), strict=True)}


@pytest.fixture(params=["tls", "plain text"])
def certificates(request, tmp_path):
    """Each party's, by name."""
    if request.param == "plain text":
        return dict.fromkeys(PARTIES)
    authority = Authority(tmp_path)
    return {party: authority.certify(party) for party in PARTIES}


def _meeting(ports, party, certificates, facts=None):
    others = {name: address for name, address in ports.items() if name != party}
    return Meeting(party, others, ports[party], certificates, facts or {"of": party}, "alice")


def _meet(ports, certificates, parties=PARTIES, *, seconds=DEADLINE, delay=0.0, facts=None):
    """What each party's meeting came to, or its failure; they come one after another, with a delay between."""

    def hold(number, party):
        time.sleep(number * delay)
        try:
            return _meeting(ports, party, certificates[party], facts).hold(seconds)
        except RuntimeFailure as failure:
            return failure

    with ThreadPoolExecutor(len(parties)) as pool:
        return dict(zip(parties, pool.map(hold, range(len(parties)), parties), strict=True))


@pytest.mark.slow("parties may come up in any order; they wait for each other")
@pytest.mark.parametrize("order", [PARTIES, PARTIES[::-1]])
def test_everybody_learns_everybody_s_facts_and_the_run_s_name(ports, certificates, order):
    met = _meet(ports, certificates, order, delay=0.6)
    for found in met.values():
        assert found.facts == {party: {"of": party} for party in PARTIES}
        assert found.run == met["alice"].run
    assert len(met["alice"].run) == 64


def test_a_second_meeting_on_the_same_ports_has_another_name(ports, certificates):
    first, second = _meet(ports, certificates), _meet(ports, certificates)
    assert first["bob"].facts == second["bob"].facts
    assert first["bob"].run != second["bob"].run


def test_two_parties_and_no_other_meet(ports, certificates):
    two = {name: ports[name] for name in ("alice", "bob")}
    met = _meet(two, certificates, ["alice", "bob"])
    assert met["alice"] == met["bob"]


@pytest.mark.slow("an absent party is named by address; waits until patience ends")
def test_who_does_not_come_is_named(ports, certificates):
    met = _meet(ports, certificates, ["alice", "bob"], seconds=2)
    for party in ("alice", "bob"):
        assert str(met[party]) == f"after 2 s still not up: carol at {ports['carol']} (connection refused)"


@pytest.mark.slow("a stranger's server is not taken for absence; waits until patience ends")
def test_a_server_that_is_no_party_is_named(ports, certificates):
    files = certificates["carol"]
    server = grpc.server(ThreadPoolExecutor(2))
    if files:
        server.add_secure_port(ports["carol"], files.of_server())
    else:
        server.add_insecure_port(ports["carol"])
    server.start()
    met = _meet(ports, certificates, ["alice", "bob"], seconds=2)
    server.stop(None).wait()
    for party in ("alice", "bob"):
        expected = f"carol at {ports['carol']} (what answers there is no party of secp_spu that is starting: "
        assert expected in str(met[party])


def test_a_web_server_of_http_2_that_answers_404_is_named(ports):
    """As an ingress or a gateway does that knows no such path."""
    settings, acknowledged = (b"\x00\x00\x00\x04" + flags + b"\x00\x00\x00\x00" for flags in (b"\x00", b"\x01"))
    not_found = b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x8d"  # HEADERS, the last frame of stream 1: status 404

    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            connection.sendall(settings + acknowledged)
            time.sleep(0.5)
            connection.sendall(not_found)
            time.sleep(3)

    host, _, port = ports["carol"].rpartition(":")
    with socket.create_server((host, int(port))) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        met = _meet(ports, dict.fromkeys(PARTIES), ["alice"], seconds=2)
    assert "what answers there is no party of secp_spu that is starting: " in str(met["alice"])
    assert "404" in str(met["alice"])


@pytest.mark.slow("a valid certificate in another's name is refused; waits in each case")
@pytest.mark.parametrize("names", [["dave"], ["bob"], []])
def test_another_s_certificate_is_no_party_s(ports, tmp_path, names):
    """Carol's address answers with a certificate of the authority that names somebody else."""
    authority = Authority(tmp_path)
    certificates = {party: authority.certify(party) for party in PARTIES}
    certificates["carol"] = authority.certify("dave", names)
    met = _meet(ports, certificates, seconds=2)
    for party in ("alice", "bob"):
        assert str(met[party]).startswith(
            f"after 2 s still not up: carol at {ports['carol']} (no TLS connection: the certificate "
        )
    assert "whoever asks is no party" in str(met["carol"])


@pytest.mark.slow("no fallback to an unknown authority or no TLS; two waits")
def test_another_authority_and_plain_text_are_no_party_s(ports, tmp_path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    for stranger in (theirs.certify("carol"), None):
        certificates = {"alice": ours.certify("alice"), "bob": ours.certify("bob"), "carol": stranger}
        met = _meet(ports, certificates, seconds=2)
        assert f"carol at {ports['carol']} (" in str(met["alice"])
        assert all(isinstance(found, RuntimeFailure) for found in met.values())


def test_parties_that_are_called_one_another(ports):
    swapped = ports | {"bob": ports["carol"], "carol": ports["bob"]}
    alice = _meeting(swapped, "alice", None)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(_meeting(ports, party, None).hold, 3) for party in ("bob", "carol")]
        with pytest.raises(RuntimeFailure, match=r"bob at .* \(what answers there is another party, .*; carol at "):
            alice.hold(2)
        for other in others:
            assert isinstance(other.exception(), RuntimeFailure)


def test_no_proxy_is_asked(ports, certificates, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert all(met.run for met in _meet(ports, certificates).values())


def test_a_port_that_is_taken(ports):
    host, _, port = ports["alice"].rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises(RuntimeFailure, match="cannot listen on 127"):
        _meeting(ports, "alice", None).hold(1)


@pytest.mark.slow("a meeting survives hostile bytes; a meeting for each")
@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\x80\x04K\x01.",
        b"[" * 100_000,
        b"{}",
        json.dumps({"program": "secp_spu", "version": 1, "party": "bob"}).encode(),
        json.dumps({"program": "secp_spu", "version": 1, "party": "dave", "has_all": True}).encode(),
        json.dumps({"program": "secp_spu", "version": 2, "party": "bob", "has_all": True}).encode(),
        json.dumps({"program": "secp_spu", "version": 1, "party": ["bob"], "has_all": True}).encode(),
        b" " * (MESSAGE_BYTES + 1),
    ],
    ids=lambda question: repr(question)[:30],
)
def test_strange_questions_get_no_answer_and_do_no_harm(ports, question):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(_meeting(ports, "alice", None).hold, DEADLINE)
        with connect(ports["alice"], "alice", None) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(METHOD)(question, timeout=DEADLINE, wait_for_ready=True)
        rest = [pool.submit(_meeting(ports, party, None).hold, DEADLINE) for party in ("bob", "carol")]
        assert first.result().run == rest[0].result().run == rest[1].result().run


def test_facts_are_limited(ports):
    with pytest.raises(ValueError, match="too long"):
        _meeting(ports, "alice", None, {"x": "y" * MESSAGE_BYTES})
