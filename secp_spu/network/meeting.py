"""The meeting of a cluster's parties before any of them starts Ray: who is there, and what each of them is about to do.

Every party serves one method on its control address and asks all others for theirs, until everybody has everybody's
answer. Messages are JSON of limited size. A party leaves when each of the others has said that it has all answers, and
has been told that this one has: after that nobody asks anybody anything more, and the port is free for SecretFlow.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypedDict, cast

import grpc
from typing_extensions import NotRequired

from secp_spu.errors import RuntimeFailure
from secp_spu.network.certificates import Certificates
from secp_spu.network.channels import REFUSED, SILENT, caller, connect, listen, reason, server_options
from secp_spu.trees import JsonObject

METHOD = "/secp_spu.Meeting/Meet"

PROGRAM = "secp_spu"
VERSION = 1
"""Version of what is said at a meeting."""

MESSAGE_BYTES = 2**18
"""The longest message; a party's facts are some kilobytes."""

PERIOD_SECONDS = 0.1
ANSWER_SECONDS = 5.0
"""A party that takes so long for an answer is asked again."""

WORD_BYTES = 16

Facts: TypeAlias = Mapping[str, object]
"""What a party tells all others of its configuration: a JSON object."""


class _Answer(TypedDict):
    """What a party answers; `word` comes from the data owner alone."""

    party: str
    facts: Facts
    word: NotRequired[str]


@dataclass(frozen=True)
class Met:
    """What a meeting came to.

    Attributes:
        facts: of every party, by name.
        run: a name for this start alone: a digest of the data owner's word and of all facts, in hexadecimal digits.
    """

    facts: dict[str, Facts]
    run: str


class Meeting:
    """One party's side of a meeting.

    Args:
        party: who this is.
        addresses: where each of the others is reached, `host:port` by name.
        listen_at: where this party listens, `host:port`.
        certificates: of this party; None for plain text, where anybody can say to be any party.
        facts: of this party.
        word_from: the party whose word names the run, the data owner.
    """

    def __init__(
        self,
        party: str,
        addresses: Mapping[str, str],
        listen_at: str,
        certificates: Certificates | None,
        facts: Facts,
        word_from: str,
    ):
        self._party, self._others, self._certificates = party, dict(addresses), certificates
        self._listen_at, self._word_from = listen_at, word_from
        own = {"program": PROGRAM, "version": VERSION, "party": party, "facts": facts}
        if party == word_from:
            own["word"] = secrets.token_hex(WORD_BYTES)
        self._answer = json.dumps(own).encode()
        if len(self._answer) > MESSAGE_BYTES:
            raise ValueError(f"facts of {len(self._answer)} bytes are too long: {MESSAGE_BYTES} are allowed")
        self._answers: dict[str, _Answer] = {party: json.loads(self._answer)}
        self._reasons = dict.fromkeys(addresses, SILENT)
        self._told: set[str] = set()
        self._heard: set[str] = set()
        self._changed = threading.Condition()
        self._over = threading.Event()

    def hold(self, seconds: float) -> Met:
        """Return when all have everybody's answer.

        Raises: RuntimeFailure if this takes more than `seconds`, naming who is missing and why.
        """
        server = grpc.server(
            ThreadPoolExecutor(len(self._others) + 1),
            handlers=[_Handler(self._respond)],
            options=server_options([("grpc.max_receive_message_length", MESSAGE_BYTES)]),
        )
        try:
            listen(server, self._listen_at, self._certificates)
        except RuntimeError as error:
            raise RuntimeFailure(f"cannot listen on {self._listen_at}: {error}") from error
        server.start()
        askers = [threading.Thread(target=self._ask, args=(other,), daemon=True) for other in self._others]
        for asker in askers:
            asker.start()
        try:
            self._wait(seconds)
        finally:
            self._over.set()
            for asker in askers:
                asker.join()
            server.stop(ANSWER_SECONDS).wait()  # answers that are under way still go out
        return self._result()

    def _wait(self, seconds: float) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: not self._missing(), seconds):
                return
            missing = "; ".join(f"{p} at {self._others[p]} ({self._reasons[p]})" for p in self._missing())
        raise RuntimeFailure(f"after {seconds:.0f} s still not up: {missing}")

    def _missing(self) -> list[str]:
        """Those without whom this party cannot leave."""
        silent = sorted(set(self._others) - set(self._answers))
        return silent or sorted(set(self._others) - (self._told & self._heard))

    def _has_all(self) -> bool:
        return set(self._others) < set(self._answers)

    def _result(self) -> Met:
        facts = {party: self._answers[party]["facts"] for party in sorted(self._answers)}
        content = [self._answers[self._word_from]["word"], facts]
        return Met(facts, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())

    def _respond(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """To a party's question: note that it has all answers if it says so, and tell it about this one."""
        asked = _read(request, {"party": str, "has_all": bool}) or {}
        party = str(asked.get("party"))
        if party not in self._others or (self._certificates and party != self._caller(context)):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "whoever asks is no party of this cluster")
        if asked["has_all"]:
            with self._changed:
                self._heard.add(party)
                self._changed.notify()
        return self._answer

    def _caller(self, context: grpc.ServicerContext) -> str | None:
        return caller(context.auth_context(), [self._party, *self._others])

    def _ask(self, other: str) -> None:
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        with connect(self._others[other], other, self._certificates, options) as channel:
            meet = channel.unary_unary(METHOD)
            while other not in self._told and not self._over.is_set():
                self._ask_once(other, meet)
                self._over.wait(0 if self._has_all() else PERIOD_SECONDS)

    def _ask_once(self, other: str, meet: Callable[..., bytes]) -> None:
        has_all = self._has_all()
        question = {"program": PROGRAM, "version": VERSION, "party": self._party, "has_all": has_all}
        try:
            answer = meet(json.dumps(question).encode(), timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            self._note(other, reason(error))
            return
        kinds = {"party": str, "facts": dict} | ({"word": str} if other == self._word_from else {})
        found = _read(answer, kinds)
        if not found or found["party"] != other:
            self._note(other, "what answers there is another party, or of another version of secp_spu")
            return
        with self._changed:
            self._answers.setdefault(other, cast(_Answer, found))  # its types are checked
            self._reasons[other] = "it waits for another party"
            if has_all:
                self._told.add(other)
            self._changed.notify()

    def _note(self, other: str, why: str) -> None:
        """Keep why a party cannot be asked: who gave up after an answer that says more is not merely gone."""
        if other in self._answers or why not in (REFUSED, SILENT) or self._reasons[other] in (REFUSED, SILENT):
            self._reasons[other] = why
        self._over.wait(PERIOD_SECONDS)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Serves METHOD, and no other."""

    def __init__(self, respond: Callable[[bytes, grpc.ServicerContext], bytes]):
        self._method = grpc.unary_unary_rpc_method_handler(respond)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The method that is called; None if there is no such one."""
        return self._method if details.method == METHOD else None


def _read(message: bytes, kinds: Mapping[str, type]) -> JsonObject | None:
    """A message of this program and version with values of these types; None for anything else."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (found.get("program"), found.get("version")) != (PROGRAM, VERSION):
        return None
    return found if all(type(found.get(key)) is kind for key, kind in kinds.items()) else None
