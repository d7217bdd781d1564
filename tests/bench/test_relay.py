"""A relay between echo servers: what it delays, what it limits, and that nothing of it is left."""

import contextlib
import socket
import threading
import time

import psutil
import pytest

from secp_spu.bench.relay import Relay

SLACK_SECONDS = 0.5
"""What a busy machine may add; a relay must never take less than it was told."""


@pytest.fixture
def listeners():
    """Two listening sockets that stand for parties."""
    with contextlib.ExitStack() as held:
        yield [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]


@contextlib.contextmanager
def _connected(relay, listeners, sender=0, receiver=1):
    with socket.create_connection(("127.0.0.1", relay.ports[sender, receiver])) as near:
        far, _ = listeners[receiver].accept()
        with far:
            yield near, far


def _relay(listeners, delay, rate=None):
    return Relay([listener.getsockname()[1] for listener in listeners], delay, rate)


def _read(end, size):
    data = b""
    while len(data) < size:
        data += end.recv(size - len(data))
    return data


def _seconds(start_end, finish_end, data):
    """From before the first byte is sent until the last has come."""
    start = time.monotonic()
    sending = threading.Thread(target=start_end.sendall, args=(data,))
    sending.start()
    assert _read(finish_end, len(data)) == data
    sending.join()
    return time.monotonic() - start


def _seconds_of_both(first, second, data):
    """From before the first byte is sent on two ways until the last has come."""
    start = time.monotonic()
    for sender, _ in (first, second):
        threading.Thread(target=sender.sendall, args=(data,)).start()
    for _, receiver in (first, second):
        _read(receiver, len(data))
    return time.monotonic() - start


def test_bytes_are_delayed_both_ways(listeners):
    with _relay(listeners, 0.1) as relay, _connected(relay, listeners) as (near, far):
        assert 0.1 <= _seconds(near, far, b"request") < 0.1 + SLACK_SECONDS
        assert 0.1 <= _seconds(far, near, b"answer") < 0.1 + SLACK_SECONDS


def test_the_delay_is_not_paid_by_every_message(listeners):
    with _relay(listeners, 0.1) as relay, _connected(relay, listeners) as (near, far):
        start = time.monotonic()
        for _ in range(20):
            near.sendall(b"x" * 100)
            time.sleep(0.002)
        _read(far, 2000)
        assert time.monotonic() - start < 0.15 + SLACK_SECONDS


def test_a_short_delay_is_not_rounded_to_milliseconds(listeners):
    """A LAN's delay is shorter than the millisecond that `epoll` would wait."""
    with _relay(listeners, 0.0004) as relay, _connected(relay, listeners) as (near, far):
        best = min(_seconds(near, far, b"x") for _ in range(100))
    assert 0.0004 <= best < 0.001


def test_the_rate_is_kept(listeners):
    data = bytes(range(256)) * 4000
    with _relay(listeners, 0, 20e6) as relay, _connected(relay, listeners) as (near, far):
        expected = 8 * len(data) / 20e6
        assert expected <= _seconds(near, far, data) < expected + SLACK_SECONDS


def test_connections_of_a_party_share_its_uplink_and_others_do_not(listeners):
    data, rate = bytes(1_500_000), 20e6
    alone = 8 * len(data) / rate
    with (
        _relay(listeners, 0, rate) as relay,
        _connected(relay, listeners, 0, 1) as (near, far),
        _connected(relay, listeners, 1, 0) as (other, back),
    ):
        # Party 0 sends on its own connection and answers on that of party 1: one uplink.
        shared = _seconds_of_both((near, far), (back, other), data)
        # Party 1 sends on that connection: another uplink.
        apart = _seconds_of_both((near, far), (other, back), data)
    assert 2 * alone <= shared < 2 * alone + SLACK_SECONDS
    assert alone <= apart < 2 * alone


def test_an_ended_connection_ends_behind_its_last_byte(listeners):
    with _relay(listeners, 0.05) as relay, _connected(relay, listeners) as (near, far):
        near.sendall(b"last")
        near.shutdown(socket.SHUT_WR)
        assert _read(far, 4) == b"last"
        assert far.recv(1) == b""
        far.sendall(b"still open")
        assert _read(near, 10) == b"still open"


def test_a_party_that_does_not_listen_yet_may_be_tried_again(listeners):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Relay([listeners[0].getsockname()[1], port], 0) as relay:
        with socket.create_connection(("127.0.0.1", relay.ports[0, 1])) as early:
            assert early.recv(1) == b""
        with socket.create_server(("127.0.0.1", port)) as late, _connected(relay, [listeners[0], late]) as (near, far):
            near.sendall(b"now")
            assert _read(far, 3) == b"now"


@pytest.mark.parametrize("error", [None, KeyError])
def test_neither_process_nor_port_is_left(listeners, error):
    with contextlib.suppress(KeyError), _relay(listeners, 0.01) as relay, _connected(relay, listeners):
        if error:
            raise error
    assert not psutil.pid_exists(relay.pid)
    for port in relay.ports.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
