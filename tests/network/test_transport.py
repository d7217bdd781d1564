"""A receiver and senders of one process: from whom a message is taken, and what becomes of one that is not."""

import asyncio
import os
import pickle
import socket
from contextlib import asynccontextmanager

import cloudpickle
import grpc
import numpy as np
import psutil
import pytest
from tls import Authority

pytest.importorskip("fed", reason="SecretFlow is not installed")

from fed.exceptions import FedRemoteError

from secp_spu.network.channels import client_options
from secp_spu.network.messages import RefusedMessage, encode
from secp_spu.network.transport import SEND, PartyReceiver, PartySender, tls_config
from secp_spu.network.watch import Watch, alive_answer

PARTIES = ["alice", "bob", "carol"]
RUN = "run"
DEADLINE = 20
"""Nothing takes so long on any machine."""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


class Receiver(PartyReceiver):
    """Alice's, on a port that is free; as RayFed has it, but that it says which port."""

    def __init__(self, files, host="127.0.0.1"):
        super().__init__(f"{host}:{_free_port()}", "alice", RUN, tls_config(files), {}, PARTIES)
        self.address = self._listen_addr

    def expect(self, party, number="1"):
        return asyncio.wait_for(self.get_data(party, number, "2"), DEADLINE)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def _receiver(files):
    receiver = Receiver(files)
    serving = asyncio.create_task(receiver.start())
    assert await receiver.is_ready() == (True, "")
    try:
        yield receiver
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _send(receiver, party, files, value, *, run=RUN, number="1"):
    sender = PartySender({"alice": receiver.address}, party, run, tls_config(files), {"timeout_in_ms": 5000})
    try:
        return await sender.send("alice", value, number, "2")
    finally:
        await sender.stop()


async def _push(receiver, files, message, *, run=RUN, name="alice"):
    """Bytes that a sender of ours would not send."""
    options = client_options(name)
    if files:
        channel = grpc.aio.secure_channel(receiver.address, files.of_client(), options)
    else:
        channel = grpc.aio.insecure_channel(receiver.address, options)
    async with channel:
        await channel.unary_unary(SEND)(message, metadata=(("run", run), ("from", "1"), ("for", "2")), timeout=5)


class Spy:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(params=["tls", "plain text"])
def files(request, authority):
    """A function from a party's name to its files."""
    return authority.certify if request.param == "tls" else lambda _: None


def test_a_message_arrives_before_or_after_it_is_asked_for(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            await _send(receiver, "bob", files("bob"), {"x": np.arange(3)})
            first = await receiver.expect("bob")
            waiting = asyncio.create_task(receiver.expect("carol", "7#0"))
            await asyncio.sleep(0.1)
            await _send(receiver, "carol", files("carol"), (None, b"k"), number="7#0")
            return first, await waiting

    first, second = asyncio.run(run())
    np.testing.assert_array_equal(first["x"], np.arange(3))
    assert second == (None, b"k")


def test_a_party_that_failed_sends_no_exception(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            await _send(receiver, "bob", files("bob"), FedRemoteError("bob", RuntimeError("a secret")))
            return await receiver.expect("bob")

    failure = asyncio.run(run())
    assert isinstance(failure, FedRemoteError)
    assert str(failure) == "FedRemoteError occurred at bob"


def test_what_cannot_be_sent_is_a_failure_to_its_receiver(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            with pytest.raises(TypeError, match="is not sent between parties"):
                await _send(receiver, "bob", files("bob"), object())
            return await receiver.expect("bob")

    assert isinstance(asyncio.run(run()), FedRemoteError)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_payload_does_not_run_and_its_sender_is_named(files, tmp_path, dumps):
    path = tmp_path / "ran"

    async def run():
        async with _receiver(files("alice")) as receiver:
            other = asyncio.create_task(receiver.expect("bob", "9"))
            await _push(receiver, files("carol"), dumps(Spy(path)))
            with pytest.raises(RefusedMessage, match="^carol sent a message that was refused: it is "):
                await receiver.expect("carol")
            for later in (other, receiver.expect("bob", "10")):
                with pytest.raises(RefusedMessage, match="^carol sent a message that was refused"):
                    await later

    asyncio.run(run())
    assert not path.exists()


@pytest.mark.parametrize("first", ["asked", "sent"])
def test_a_certificate_of_carol_s_does_not_send_as_bob(authority, first):
    async def run():
        async with _receiver(authority.certify("alice")) as receiver:
            if first == "asked":
                waiting = asyncio.create_task(receiver.expect("bob"))
                await asyncio.sleep(0.1)
            await _send(receiver, "bob", authority.certify("carol"), 1)
            with pytest.raises(RefusedMessage, match="^carol sent a message that was bob's to send: it was refused$"):
                await (waiting if first == "asked" else receiver.expect("bob"))

    asyncio.run(run())


def test_two_who_send_the_same_message_are_both_named(authority):
    async def run():
        async with _receiver(authority.certify("alice")) as receiver:
            for party in ("bob", "carol"):
                await _send(receiver, "bob", authority.certify(party), party)
            with pytest.raises(RefusedMessage, match="^carol and bob sent the same message: it was refused$"):
                await receiver.expect("dave", "another")

    asyncio.run(run())


def test_a_message_that_comes_twice_from_the_same_party_is_taken_once(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            bob = files("bob")
            for value in (1, 2):
                await _send(receiver, "bob", bob, value)
            return await receiver.expect("bob")

    assert asyncio.run(run()) == 1


def test_a_message_of_another_run_is_refused_and_does_not_learn_this_one_s_name(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            with pytest.raises(grpc.RpcError) as error:
                await _push(receiver, files("bob"), encode(1), run="an earlier one")
            await _send(receiver, "bob", files("bob"), 2)
            return error.value, await receiver.expect("bob")

    error, value = asyncio.run(run())
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "the message is of another run"
    assert value == 2


def test_who_has_no_certificate_of_a_party_s_gets_nowhere(authority, tmp_path):
    stranger = Authority(tmp_path / "theirs").certify("bob")
    nobody, both = authority.certify("dave"), authority.certify("both", ["bob", "carol"])

    async def run():
        async with _receiver(authority.certify("alice")) as receiver:
            codes = []
            for files in (None, stranger, nobody, both):
                with pytest.raises(grpc.RpcError) as error:
                    await _push(receiver, files, encode(1))
                codes.append(error.value.code().name)
            assert not receiver._slots
            return codes

    codes = asyncio.run(run())
    assert codes == ["UNAVAILABLE", "UNAVAILABLE", "PERMISSION_DENIED", "PERMISSION_DENIED"]


def test_a_sender_speaks_to_the_party_that_it_means_alone(authority):
    """What listens at alice's address has carol's certificate."""

    async def run():
        async with _receiver(authority.certify("carol")) as receiver:
            with pytest.raises(grpc.RpcError, match="Hostname Verification Check failed"):
                await _push(receiver, authority.certify("bob"), encode("a secret"))
            assert not receiver._slots

    asyncio.run(run())


def test_the_server_listens_where_it_is_told_alone(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            port = int(receiver.address.rpartition(":")[2])
            found = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
            return {ip.removeprefix("::ffff:") for ip in found}

    assert asyncio.run(run()) == {"127.0.0.1"}


def test_a_port_that_is_taken_is_told(files):
    async def run():
        async with _receiver(files("alice")) as receiver:
            second = PartyReceiver(receiver.address, "alice", RUN, tls_config(files("alice")), {}, PARTIES)
            await second.start()
            return receiver.address, await second.is_ready()

    address, (ready, why) = asyncio.run(run())
    assert not ready
    assert why.startswith(f"cannot listen on {address}: ")


def test_the_watch_finds_the_party_by_its_certificate(authority):
    async def run():
        async with _receiver(authority.certify("alice")) as receiver:
            watch = Watch({"alice": receiver.address}, authority.certify("bob"), RUN)
            await asyncio.to_thread(watch.wait, DEADLINE)
            watch.end()

    asyncio.run(run())


def test_no_proxy_is_asked(files, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def run():
        async with _receiver(files("alice")) as receiver:
            await _send(receiver, "bob", files("bob"), "directly")
            return await receiver.expect("bob")

    assert asyncio.run(run()) == "directly"


def test_alive_says_neither_party_nor_run():
    assert len(alive_answer("alice", RUN)) == 32
    assert alive_answer("alice", RUN) != alive_answer("alice", "another")
