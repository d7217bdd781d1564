"""Addresses of the other parties in; who of them has gone, and why, out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from secp_spu.runtime.base import RuntimeFailure

PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""A party that has not answered for so long has gone."""

LINGER_SECONDS = 5.0
"""A party that ends on a failure goes on answering for so long, so that the others blame the one that failed first."""

EXPLAIN_SECONDS = 5.0
"""How long a party that fails waits to see whether another has gone before it."""

_UNKNOWN_METHOD = "/secp_spu.Watch/Alive"


@dataclass(frozen=True)
class Certificates:
    """A party's own certificate and key, and the authority that signs all parties' (PEM files)."""

    ca: Path
    certificate: Path
    key: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """Those of a client."""
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in (self.ca, self.key, self.certificate)))


class Watch:
    """Asks the other parties' SecretFlow servers, once a second, whether they are there.

    SecretFlow itself waits for ever for a message of a party that has gone. The question is a call of a method that
    no server knows: the refusal is an answer, which only a party whose certificate is accepted gets.

    Args:
        addresses: `host:port` by party, of all parties but this one.
        certificates: of this party; None for plain text.
    """

    def __init__(self, addresses: Mapping[str, str], certificates: Certificates | None):
        self._addresses, self._certificates = dict(addresses), certificates
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
            time.sleep(PERIOD_SECONDS / 4)

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
                "again, the data owner with --resume"
            )

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()

    def _ask(self, party: str) -> None:
        address = self._addresses[party]
        options = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 1000)]
        if self._certificates:
            channel = grpc.secure_channel(address, self._certificates.credentials(), options)
        else:
            channel = grpc.insecure_channel(address, options)
        with channel:
            alive = channel.unary_unary(_UNKNOWN_METHOD)
            while not self._ended.wait(PERIOD_SECONDS):
                try:
                    alive(b"", timeout=PATIENCE_SECONDS / 2)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                        self._last_seen[party] = time.monotonic()
                        self._reasons[party] = "no answer"
                    else:
                        self._reasons[party] = _reason(error)


def _reason(error: grpc.RpcError) -> str:
    """gRPC's details in a few words."""
    details = str(error.details() or "no details")
    if "certificate" in details.lower() or "ssl" in details.lower() or "tls" in details.lower():
        return f"no TLS connection: {details.splitlines()[0][-160:]}"
    if "refused" in details.lower():
        return "connection refused"
    return "no answer" if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else details.splitlines()[0][-160:]
