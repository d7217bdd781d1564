"""Servers in this process, stopped and started: who of them has gone is named. TLS is tested with the transport."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from secp_spu.errors import RuntimeFailure
from secp_spu.network import channels, watch
from secp_spu.network.watch import ALIVE, Watch, alive_answer

PERIOD = 0.05
PATIENCE = 0.5
"""Ten questions; an answer takes a few milliseconds, and here a busy machine has half a second for it."""

DEADLINE = 20
"""Nothing takes so long on any machine."""

RUN = "this run"


class Server:
    """A party's server; it counts the questions, and can be made to leave them unanswered."""

    def __init__(self, answer=None, port=0):
        self.questions, self.answer, self._go_on = 0, answer, threading.Event()
        self._go_on.set()
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def service(self, details):
        """As a handler of gRPC: None for a method that it does not know."""
        self.questions += 1
        self._go_on.wait()
        if self.answer is None or details.method != ALIVE:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda *_: self.answer)

    def hang(self):
        self._go_on.clear()

    def stop(self):
        self._go_on.set()
        self._server.stop(None).wait()


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(watch, "PERIOD_SECONDS", PERIOD)
    monkeypatch.setattr(watch, "EXPLAIN_SECONDS", 2 * PATIENCE)


@pytest.fixture
def start():
    """A function that starts the server of a party, by default of whom it is asked as; all are stopped in the end."""
    started = []

    def start(party=None, port=0):
        started.append(Server(alive_answer(party, RUN) if party else None, port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def look():
    """A function that starts a watch; all are ended in the end."""
    started = []

    def look(**servers):
        for party, server in servers.items():
            if isinstance(server, Server) and server.answer is None:
                server.answer = alive_answer(party, RUN)
        addresses = {party: s if isinstance(s, str) else s.address for party, s in servers.items()}
        started.append(Watch(addresses, None, RUN))
        return started[-1]

    yield look
    for one in started:
        one.end()


@pytest.fixture
def nowhere():
    """An address that nobody listens at, nor can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def _until_gone(watching, patience=PATIENCE):
    """What `check` says when it says something."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            watching.check(patience)
        except RuntimeFailure as failure:
            return str(failure)
        time.sleep(PERIOD)
    raise AssertionError("nobody was missed")


def _until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(PERIOD)


def _threads(*parties):
    return [thread for thread in threading.enumerate() if thread.name in {f"watch-{party}" for party in parties}]


def test_wait_returns_when_all_are_there(start, look):
    watching = look(alice=start(), bob=start())
    watching.wait(DEADLINE)
    watching.check(PATIENCE)


def test_wait_waits_for_the_last(start, look):
    alice, bob = start(), start()
    port = bob.port
    bob.stop()
    watching = look(alice=alice, bob=bob)
    waiting = threading.Thread(target=watching.wait, args=(DEADLINE,), daemon=True)
    waiting.start()
    _until(lambda: alice.questions)
    waiting.join(4 * PERIOD)
    assert waiting.is_alive()
    start("bob", port)
    waiting.join(DEADLINE)
    assert not waiting.is_alive()


def test_wait_for_nobody_returns():
    Watch({}, None, RUN).wait(0)


def test_wait_names_those_that_are_missing(start, look, nowhere):
    watching = look(alice=start(), bob=nowhere)
    begun = time.monotonic()
    with pytest.raises(RuntimeFailure) as failure:
        watching.wait(1)
    assert 0.9 <= time.monotonic() - begun < 5  # what gRPC and a loaded machine make of a second
    assert str(failure.value) == f"after 1 s still not up: bob at {nowhere} (connection refused)"


def test_wait_names_all_that_are_missing(look, nowhere):
    with pytest.raises(RuntimeFailure, match=rf"bob at {re.escape(nowhere)} \(.+\); carol at {re.escape(nowhere)} \("):
        look(carol=nowhere, bob=nowhere).wait(0.5)


def test_a_name_that_is_no_host_is_told(look):
    """RFC 2606 reserves .invalid."""
    with pytest.raises(RuntimeFailure, match=r"after 1 s still not up: bob at bob\.invalid:1 \(.+\)$"):
        look(bob="bob.invalid:1").wait(1)


def test_check_is_silent_while_all_answer(start, look):
    server = start()
    watching = look(alice=server)
    watching.wait(DEADLINE)
    before = server.questions
    end = time.monotonic() + 2 * PATIENCE
    while time.monotonic() < end:
        watching.check(PATIENCE)
        time.sleep(PERIOD)
    assert server.questions > before


def test_check_says_nothing_of_a_party_that_was_never_there(start, look, nowhere):
    """That is for `wait` to tell."""
    alice = start()
    watching = look(alice=alice, bob=nowhere)
    _until(lambda: alice.questions > 3)
    watching.check(PATIENCE)


def test_check_names_the_first_one_gone(start, look):
    alice, bob, carol = start(), start(), start()
    watching = look(alice=alice, bob=bob, carol=carol)
    watching.wait(DEADLINE)
    carol.stop()
    assert _until_gone(watching).startswith("carol has gone (")
    alice.stop()
    time.sleep(2 * PATIENCE)
    message = _until_gone(watching)
    assert message.startswith("carol has gone (")
    assert message.endswith(
        "see its own output; once it is back, start all parties again, the data owner with `resume`"
    )
    assert "bob" not in message


def test_check_waits_for_as_long_as_it_is_told(start, look):
    server = start()
    watching = look(bob=server)
    watching.wait(DEADLINE)
    server.stop()
    time.sleep(4 * PERIOD)
    watching.check(DEADLINE)
    watching.check()
    assert watch.PATIENCE_SECONDS == 10


def test_a_party_that_comes_back_is_not_missed(start, look):
    server = start()
    watching = look(bob=server)
    watching.wait(DEADLINE)
    server.stop()
    assert _until_gone(watching).startswith("bob has gone (")
    again = start("bob", server.port)
    _until(lambda: again.questions > 1)
    watching.check(PATIENCE)


def test_a_party_that_hangs_has_gone(start, look):
    """Its machine accepts connections still; it did answer once, so the reason is not that it never did."""
    server = start()
    watching = look(bob=server)
    watching.wait(DEADLINE)
    server.hang()
    message = _until_gone(watching)
    assert message.startswith("bob has gone (")
    assert "never answered" not in message


def test_a_failure_is_blamed_on_the_party_that_has_gone(start, look):
    alice, bob = start(), start()
    watching = look(alice=alice, bob=bob)
    watching.wait(DEADLINE)
    mine = RuntimeFailure("my own")
    assert watching.explain(mine) is mine
    bob.stop()
    assert str(watching.explain(mine)).startswith("bob has gone (")


def test_end_stops_the_questions(start, look):
    server = start()
    watching = look(zoe=server)
    watching.wait(DEADLINE)
    assert len(_threads("zoe")) == 1
    watching.end()
    _until(lambda: not _threads("zoe"))
    before = server.questions
    time.sleep(4 * PERIOD)
    assert server.questions == before
    watching.end()


class Gateway(Server):
    """Speaks HTTP/2, and knows no method of a party's."""

    def service(self, _):
        return None


@pytest.mark.parametrize("other", ["gateway", "another party", "an earlier run"])
def test_what_answers_must_be_the_party_in_this_run(look, other):
    answers = {"another party": alive_answer("carol", RUN), "an earlier run": alive_answer("bob", "another run")}
    server = Server(answers[other]) if other in answers else Gateway(b"")
    with pytest.raises(RuntimeFailure, match=rf"bob at {server.address} \(what answers there is "):
        look(bob=server).wait(1)
    server.stop()


def test_no_proxy_is_asked(start, look, nowhere, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{nowhere}")
    look(alice=start()).wait(DEADLINE)


class _Error(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        ("UNAVAILABLE", "failed to connect: 127.0.0.1:1: Connection refused", "connection refused"),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "no TLS connection: Ssl handshake failed"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "no answer"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", "what answers there is no party of secp_spu"),
        ("UNAVAILABLE", "Socket closed\nand a stack", "Socket closed"),
        ("UNAVAILABLE", "x" * 999, "x" * 160),
        ("UNAVAILABLE", "", ""),
        ("UNAVAILABLE", None, ""),
    ],
)
def test_reasons_are_a_few_words(code, details, reason):
    found = channels.reason(_Error(grpc.StatusCode[code], details))
    assert found.startswith(reason)
    assert 0 < len(found) < 200
    assert "\n" not in found
