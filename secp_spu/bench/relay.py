"""Simulates a wide network on one machine: ports that delay and limit what they pass on to the parties' ports.

A relay is a process of its own that runs this file as a script, so that it needs nothing but the standard library. It
ends when its standard input closes, hence with the process that started it, however that ends.

Every byte is held for the one-way delay, in both directions of a connection. A party's uplink is one queue: all that it
sends, requests and answers on all its connections, passes one after another at the given rate.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, cast

CHUNK_BYTES = 1 << 17
START_SECONDS = 20
END_SECONDS = 5

Pair = tuple[int, int]


class RelayFailure(OSError):
    """The relay's process did not start."""


class Relay:
    """A network between parties on this machine.

    Args:
        targets: the port that each party listens at, by rank.
        delay_seconds: from one party to another, one way.
        bits_per_second: of each party's uplink; None for no limit.
    Attributes:
        ports: where party i reaches party j, by (i, j).
    Raises: RelayFailure.
    """

    def __init__(self, targets: Sequence[int], delay_seconds: float, bits_per_second: float | None = None):
        self.ports: dict[Pair, int] = {}
        script = [sys.executable, "-I", __file__]
        self._process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            self._start({"targets": list(targets), "delay": delay_seconds, "rate": bits_per_second})
        except BaseException:
            self.close()
            raise

    def _start(self, order: dict[str, list[int] | float | None]) -> None:
        there, back = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        there.write(json.dumps(order) + "\n")
        there.flush()
        ready, _, _ = select.select([back], [], [], START_SECONDS)
        line = back.readline() if ready else ""
        if not line:
            raise RelayFailure(f"the relay between the ports {order['targets']} did not start")
        self.ports = {(sender, receiver): port for sender, receiver, port in json.loads(line)}

    @property
    def pid(self) -> int:
        """Process id of the relay."""
        return self._process.pid

    def close(self) -> None:
        """End the process; what it still holds is lost."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Uplink:
    """What one party sends, one message after another."""

    rate: float | None
    free: float = 0.0

    def departure(self, size: int, now: float) -> float:
        """When the last of `size` bytes has left."""
        if self.rate is None:
            return now
        self.free = max(self.free, now) + 8 * size / self.rate
        return self.free


@dataclass(eq=False)
class _Way:
    """One direction of a connection; b"" in the queue is its end."""

    source: socket.socket
    sink: socket.socket
    uplink: _Uplink
    delay: float
    held: deque[tuple[float, memoryview]] = field(default_factory=deque)
    read: bool = True
    open: bool = True

    def take(self, now: float) -> None:
        """Hold what has come, until it is due."""
        try:
            data = self.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.read = bool(data)
        self.held.append((self.uplink.departure(len(data), now) + self.delay, memoryview(data)))

    def due(self, now: float) -> bool:
        """Whether something must go out."""
        return bool(self.held) and self.held[0][0] <= now

    def deliver(self, now: float) -> None:
        """Pass on what is due, as far as the receiver takes it."""
        try:
            while self.due(now):
                at, data = self.held.popleft()
                if not data:
                    self.open = False
                    self.sink.shutdown(socket.SHUT_WR)
                elif (sent := self.sink.send(data)) < len(data):
                    self.held.appendleft((at, data[sent:]))
                    return
        except BlockingIOError:
            self.held.appendleft((at, data))
        except OSError:
            self.open = self.read = False
            self.held.clear()


class _Loop:
    """The relay's process: one thread that waits for data and for due times.

    `select` and not `epoll`: the latter's timeouts are whole milliseconds, longer than a LAN's delay.
    """

    def __init__(self, targets: Sequence[int], delay: float, rate: float | None):
        self._targets, self._delay = targets, delay
        self._uplinks = [_Uplink(rate) for _ in targets]
        self._ways: list[_Way] = []
        ranks = range(len(targets))
        self._doors = {_listen(): (i, j) for i in ranks for j in ranks if i != j}

    def ports(self) -> list[tuple[int, int, int]]:
        """(sender, receiver, port) of every ordered pair."""
        return [(i, j, door.getsockname()[1]) for door, (i, j) in self._doors.items()]

    def run(self) -> None:
        """Relay until standard input closes."""
        while True:
            now = time.monotonic()
            readers = {way.source: way for way in self._ways if way.read}
            blocked = {way.sink: way for way in self._ways if way.due(now)}
            waits = [way.held[0][0] - now for way in self._ways if way.held and not way.due(now)]
            timeout = max(0.0, min(waits)) if waits else None
            found, _, _ = select.select([sys.stdin, *self._doors, *readers], list(blocked), [], timeout)
            if sys.stdin in found:
                return
            now = time.monotonic()
            for ready in found:
                if ready in readers:
                    readers[ready].take(now)
                else:
                    self._connect(ready, *self._doors[ready])
            for way in self._ways:
                way.deliver(time.monotonic())
            self._forget()

    def _connect(self, door: socket.socket, sender: int, receiver: int) -> None:
        near, _ = door.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._targets[receiver]))
        except OSError:
            near.close()  # that party does not listen yet: the sender tries again
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ways.append(_Way(near, far, self._uplinks[sender], self._delay))
        self._ways.append(_Way(far, near, self._uplinks[receiver], self._delay))

    def _forget(self) -> None:
        """Close connections whose two ways have ended."""
        if all(way.open for way in self._ways):
            return
        ended = {way.source for way in self._ways if not way.open}
        both = [way for way in self._ways if not way.open and way.sink in ended]
        _close(way.source for way in both)
        self._ways = [way for way in self._ways if way not in both]


def _listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=16)


def _close(sockets: Iterable[socket.socket]) -> None:
    for end in sockets:
        end.close()


def main() -> None:
    """Read the order from standard input, write the ports to standard output, relay."""
    order = json.loads(sys.stdin.readline())
    loop = _Loop(order["targets"], order["delay"], order["rate"])
    print(json.dumps(loop.ports()), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
