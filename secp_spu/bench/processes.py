"""A runtime whose parties are processes of this machine, linked by a network that is simulated."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, cast

from spu import Runtime as SpuRuntime
from spu import libspu
from typing_extensions import override

from secp_spu.bench.network_model import Network
from secp_spu.bench.relay import Relay
from secp_spu.errors import RuntimeFailure
from secp_spu.protocol import MaskStream, Scheme
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime import LocalRuntime, Stored
from secp_spu.runtime.chain import parts_of
from secp_spu.runtime.compute_party import ComputeParty, public_steps, spu_config
from secp_spu.runtime.heap import keep_freed_memory
from secp_spu.runtime.ledger import Cost
from secp_spu.runtime.local import PartyThread, first_line
from secp_spu.runtime.profile import profile_log
from secp_spu.runtime.program import Program

END_SECONDS = 5

Answer: TypeAlias = Any  # Any: methods go by name, and only the other process knows what they return.
"""What a method of a `ComputeParty` in another process returns."""


class ProcessRuntime(LocalRuntime):
    """SPU parties as processes of this machine, each with the sockets that it would have among others.

    Correlations are made jointly. The ledger's seconds are of the slowest party, from one common start.

    Args:
        protocol: "aby3" or "semi2k".
        parties: how many.
        network: between them; None for this machine's loopback as it is.
        timeout_seconds: how long a party waits for a message.
    Raises: RuntimeFailure if they do not come together.
    """

    def __init__(self, protocol: str, parties: int, network: Network | None = None, *, timeout_seconds: int = 300):
        self._held = contextlib.ExitStack()
        self._network = network
        try:
            super().__init__(protocol, parties, timeout_seconds=timeout_seconds)
        except BaseException:
            self._held.close()
            raise

    @override
    def _make_parties(self, by_rank: list[dict[int, MaskStream]], timeout_seconds: int) -> list[PartyThread]:
        """Processes that wait for tasks. Their streams are fresh ones: those of `by_rank` are of this process."""
        del by_rank
        scheme, ports = self._scheme, _free_ports(self.parties)
        relayed = {}
        if self._network:
            relay = Relay(ports, self._network.delay_seconds, self._network.bits_per_second)
            relayed = self._held.enter_context(relay).ports
        keys = [os.urandom(KEY_BYTES) for _ in ports]
        parties: list[PartyThread] = []
        for rank in range(self.parties):
            reached = [relayed.get((rank, other), port) for other, port in enumerate(ports)]
            place = _Place(scheme, rank, {c: keys[c] for c in scheme.held_by(rank)}, reached, timeout_seconds)
            parties.append(_RemoteParty(place, self._held))
        return parties

    @override
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        names = [handle.name for handle in inputs], [handle.name for handle in outputs]
        openings = len(program.audit.openings)
        with self.ledger.timed(program.name) as rows:
            costs = self._everywhere(
                lambda party: cast(_RemoteParty, party).remote.execute(openings, program.name, program.code, *names)
            )
            rows += [(op, replace(cost, seconds=cost.seconds / self.parties)) for of in costs for op, cost in of]

    @override
    def close(self) -> None:
        """No process or port is left."""
        try:
            super().close()
        finally:
            self._held.close()

    @override
    def abandon(self) -> None:
        self._held.close()
        super().close()


@dataclass(frozen=True)
class _Place:
    """What a party's process is told: ports are where it reaches the others, and its own."""

    scheme: Scheme
    rank: int
    keys: Mapping[int, bytes]
    ports: list[int]
    timeout_seconds: int

    def link(self) -> libspu.link.Context:
        """Meet the others."""
        description = libspu.link.Desc()
        description.recv_timeout_ms = description.http_timeout_ms = self.timeout_seconds * 1000
        description.connect_retry_interval_ms, description.connect_retry_times = 200, 5 * self.timeout_seconds
        description.brpc_channel_connection_type = "single"  # as in a cluster
        for rank, port in enumerate(self.ports):
            description.add_party(f"rank-{rank}", f"127.0.0.1:{port}")
        return libspu.link.create_brpc(description, self.rank)


class _RemoteParty(PartyThread):
    """A party's thread in the driver, which waits for the party's process."""

    def __init__(self, place: _Place, held: contextlib.ExitStack):
        self._place = place
        near, far = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(far, place), daemon=True)
        self._process.start()
        far.close()
        held.callback(_end, self._process, near)
        self._pipe = near
        super().__init__(place.scheme, place.rank, {}, "", place.timeout_seconds)

    def connect(self) -> None:
        """Wait until the process has met the others."""
        _answer(self._pipe)
        self.remote = _RemoteSide(self._pipe)
        self.side = cast(ComputeParty, self.remote)  # it has the same methods


class _RemoteSide:
    """The methods of a `ComputeParty` in another process."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe

    def __getattr__(self, method: str) -> Callable[..., Answer]:
        return partial(self._call, method)

    def _call(self, method: str, *args: object) -> Answer:
        self._pipe.send((method, args))
        return _answer(self._pipe)


def _answer(pipe: Connection) -> Answer:
    try:
        fine, result = pipe.recv()
    except (EOFError, OSError) as error:
        raise RuntimeFailure("its process has ended") from error
    if not fine:
        raise RuntimeFailure(result)
    return result


def _end(process: BaseProcess, pipe: Connection) -> None:
    process.kill()  # what it keeps goes with it, so there is nothing to finish
    process.join(END_SECONDS)
    process.close()
    pipe.close()


def _serve(pipe: Connection, place: _Place) -> None:
    """A party's process: link up, then run one method after another until the driver closes the pipe."""
    try:
        keep_freed_memory()
        log = profile_log()
        log.acquire()
        link, streams = place.link(), {c: MaskStream(key) for c, key in place.keys.items()}
        spu = SpuRuntime(link, spu_config(place.scheme))
        side = ComputeParty(place.scheme, place.rank, spu, link, streams=streams)
        pipe.send((True, None))
        while True:
            method, args = pipe.recv()
            rows: list[tuple[str, Cost]] = []
            if method == "execute":
                openings, program, code, *names = args
                with log.run(program, 1, openings, rows, parts=parts_of(code)):
                    rows += public_steps([side.execute(program, code, *names)])
                pipe.send((True, rows))
            else:
                pipe.send((True, getattr(side, method)(*args)))
    except EOFError:
        os._exit(0)  # SPU's link would wait for the others
    except BaseException as error:  # a failure of any kind is the driver's to report
        with contextlib.suppress(OSError):
            pipe.send((False, first_line(error)))
        os._exit(1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
