"""Liveness checks: detects which party of a cluster has gone, and why."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping

import grpc

from secp_spu.errors import RuntimeFailure
from secp_spu.network.certificates import Certificates
from secp_spu.network.channels import connect, reason

PERIOD_SECONDS = 1.0
STARTING_PERIOD_SECONDS = 0.1
"""How often a party is asked until it first answers: all others wait for that."""

PATIENCE_SECONDS = 10.0
"""A party that has not answered for so long has gone."""

LINGER_SECONDS = 5.0
"""A party that ends on a failure goes on answering for so long, so that the others blame the one that failed first."""

EXPLAIN_SECONDS = 5.0
"""How long a party that fails waits to see whether another has gone before it."""

ALIVE = "/secp_spu.Party/Alive"
"""The method that every party serves while it runs."""


def alive_answer(party: str, run: str) -> bytes:
    """What a party answers when it is asked whether it is there.

    Who knows the run's name can check the answer, and nobody learns that name from it.
    """
    return hashlib.sha256(f"{party} {run}".encode()).digest()


class Watch:
    """Asks the other parties' servers, once a second, whether they are there.

    SecretFlow itself waits for ever for a message of a party that has gone. An answer counts if it is the party's, and
    of the same run: a server that is no party's, or a party's of an earlier start, is none.

    Args:
        addresses: `host:port` by party, of all parties but this one.
        certificates: of this party; None for plain text.
        run: the name of the run.
    """

    def __init__(self, addresses: Mapping[str, str], certificates: Certificates | None, run: str):
        self._addresses, self._certificates, self._run = dict(addresses), certificates, run
        self._last_seen: dict[str, float] = {}
        self._reasons = dict.fromkeys(addresses, "it never answered")
        self._start = time.monotonic()
        self._ended = threading.Event()
        for party in addresses:
            threading.Thread(target=self._ask, args=(party,), name=f"watch-{party}", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Return when all have answered.

        Raises: RuntimeFailure naming those that have not within `seconds`.
        """
        while missing := sorted(set(self._addresses) - set(self._last_seen)):
            if time.monotonic() - self._start > seconds:
                found = "; ".join(f"{p} at {self._addresses[p]} ({self._reasons[p]})" for p in missing)
                raise RuntimeFailure(f"after {seconds:.0f} s still not up: {found}")
            time.sleep(STARTING_PERIOD_SECONDS)

    def explain(self, failure: RuntimeFailure) -> RuntimeFailure:
        """A failure of this party's own, or of the party whose end has caused it: SPU crashes when a link breaks.

        A party whose own failure it is leaves when this has found nobody else, so that the others, which fail later,
        find it gone.
        """
        time.sleep(EXPLAIN_SECONDS)
        try:
            self.check(EXPLAIN_SECONDS / 2)
        except RuntimeFailure as found:
            return found
        return failure

    def check(self, patience: float = PATIENCE_SECONDS) -> None:
        """Raise RuntimeFailure if a party that was there has not answered for so many seconds."""
        now = time.monotonic()
        if gone := [party for party, seen in self._last_seen.items() if now - seen > patience]:
            first = min(gone, key=self._last_seen.__getitem__)
            raise RuntimeFailure(
                f"{first} has gone ({self._reasons[first]}): see its own output; once it is back, start all parties "
                "again, the data owner with `resume`"
            )

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()

    def _pause(self, party: str) -> float:
        """Seconds until a party is asked again: fewer while it has not come up."""
        return PERIOD_SECONDS if party in self._last_seen else STARTING_PERIOD_SECONDS

    def _ask(self, party: str) -> None:
        options: list[tuple[str, int | str]] = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        expected = alive_answer(party, self._run)
        with connect(self._addresses[party], party, self._certificates, options) as channel:
            alive = channel.unary_unary(ALIVE)
            while not self._ended.wait(self._pause(party)):
                try:
                    answer = alive(b"", timeout=PATIENCE_SECONDS / 2)
                except grpc.RpcError as error:
                    self._reasons[party] = reason(error)
                    continue
                if answer == expected:
                    self._last_seen[party] = time.monotonic()
                    self._reasons[party] = "no answer"
                else:
                    self._reasons[party] = "what answers there is another party, or of another run"
