"""The same interface on SecretFlow's PYU and SPU devices: simulated on one machine, or one process for each party.

In a cluster every party runs the same driver, which compiles and audits every program itself; only the party's own
devices run here. What crosses between parties: owners' shares to the compute parties that hold them, keys of mask
streams to the components' holders, corrections from the dealer, opened parts to the owner that they are opened to,
SPU's own messages, and what is disclosed to all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import TypeVar

import jax
import ray
import secretflow as sf
import secretflow.distributed as sfd
from fed.exceptions import FedRemoteError
from typing_extensions import override

from secp_spu.config import ClusterSection
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.network.meeting import Facts
from secp_spu.network.messages import RefusedMessage, shown
from secp_spu.protocol import CosineCorrelation
from secp_spu.runtime.cgroup import oom_kills, why_killed
from secp_spu.runtime.handles import Owned, Stored, Value
from secp_spu.runtime.journal import Journal
from secp_spu.runtime.local import first_line
from secp_spu.runtime.program import Program
from secp_spu.runtime.secretflow.owners import (
    DealerHost,
    OwnerActor,
    OwnerError,
    OwnerHost,
    Remote,
    actor,
    join_at_owner,
    same,
    split_at_owner,
)
from secp_spu.runtime.secretflow.party import SpuDevice
from secp_spu.runtime.secretflow.ray_processes import end_ray_processes
from secp_spu.runtime.secretflow.spu_logging import SPU_LOGGING_PATCHED, worker_hook
from secp_spu.runtime.secretflow.start import Agree, linger, start_party, start_simulation
from secp_spu.runtime.sharing_runtime import SharingRuntime
from secp_spu.trees import Tree

_POLL_SECONDS = 0.5

Result = TypeVar("Result")

RAY_KILLED = (
    "for lack of memory, as Ray says, which keeps a part of the machine's free: lower tuning.candidates_per_call"
)


class SecretFlowRuntime(SharingRuntime):
    """SecretFlow devices as parties: a PYU for each owner and the dealer, an SPU over the compute parties.

    Args:
        protocol: "aby3" or "semi2k".
        cluster: the parties.
        party: which of them this process is; None simulates all of them on this machine.
        facts: what this party tells all others of its configuration, before anything is shared: a JSON object.
        agree: compares what the parties have told; raises ConfigError if it does not go together.
    Raises: ConfigError for files that cannot be used, or from `agree`; RuntimeFailure for a port that is taken, or a
        party that does not come up.
    """

    def __init__(
        self,
        protocol: str,
        cluster: ClusterSection,
        party: str | None = None,
        *,
        facts: Facts | None = None,
        agree: Agree = lambda _: None,
    ):
        super().__init__(protocol, len(cluster.compute))
        self._cluster, self._party = cluster, party
        self._owners = {"data_owner": cluster.data_owner, "model_owner": cluster.model_owner}
        self._failure: RuntimeFailure | None = None
        self._oom_kills = oom_kills()
        self._waiter = ThreadPoolExecutor(1, "secretflow")
        self._waiting: Future[Value] = Future()
        self._waiting.set_result(None)
        self._lingers = True
        if party is not None:
            self.journal = Journal(cluster.log, party)
        self._loaded: dict[int, int] = {}
        hook = None if SPU_LOGGING_PATCHED else worker_hook()
        self._watch = start_party(cluster, party, facts or {}, agree, hook) if party else None
        if party is None:
            start_simulation(cluster, hook)
        try:
            self._spu = SpuDevice(self._scheme, cluster, party)
            self._dealer = self._exchange_keys()
            self._reveal([self._tell(name, "ready") for name in cluster.compute])
        except BaseException:
            self.abandon()
            raise

    def _exchange_keys(self) -> Remote:
        """A key for each component of the masks, at its holders alone; with a dealer, made by it and known to it."""
        names, dealer = self._cluster.compute, None
        if self._cluster.dealer is not None:
            dealer = actor(DealerHost, sf.PYU(self._cluster.dealer), self._scheme)
        for component in range(self.parties):
            first, *others = self._scheme.holders(component)
            if dealer is not None:
                others, key = [first, *others], dealer.key(component).data
            else:
                key = self._tell(names[first], "make_key", component)
            for rank in others:
                self._tell(names[rank], "take_key", component, key)
        return dealer

    @override
    def gather(self, value: object) -> dict[str, object]:
        everyone = self._cluster.everyone
        return dict(zip(everyone, self._reveal([sf.PYU(p)(same)(value).data for p in everyone]), strict=True))

    @override
    def actor(self, party: str, make: Callable[..., object], *args: object, **kwargs: object) -> OwnerActor:
        return OwnerActor(party, actor(OwnerHost, sf.PYU(self._owners[party]), make, args, kwargs))

    @property
    @override
    def _has_dealer(self) -> bool:
        return self._dealer is not None

    @override
    def _split_at_owner(self, values: Owned) -> tuple[Tree, list[tuple[int, list[Remote]]]]:
        split = sf.PYU(self._owners[values.party])(split_at_owner, num_returns=1 + self.parties)
        specs, *parts = [part.data for part in split(values.value, self._scheme)]
        (found,) = self._reveal([specs])
        return found, [(len(jax.tree.leaves(found)), parts)]

    @override
    def _join_at_owner(self, party: str, specs: Tree, parts: list[Remote]) -> Owned:
        owner, shapes = sf.PYU(self._owners[party]), [spec.shape for spec in jax.tree.leaves(specs)]
        self.journal.write("opened", to=self._owners[party], shapes=shapes, numbers=sum(map(math.prod, shapes)))
        return Owned(party, owner(join_at_owner)(specs, *(sf.PYUObject(owner, part) for part in parts)))

    @override
    def _correct(self, wanted: CosineCorrelation) -> Remote:
        return self._dealer.correct(wanted).data

    @override
    def _ask_all(self, method: str, *args: object, each: Sequence[object] | None = None) -> list[Remote]:
        """References to what it returned; parties book in their own ledgers, under the phase of now."""
        rest: list[list[object]] = [[]] * self.parties if each is None else [[value] for value in each]
        return [
            self._tell(party, "ask", self.ledger.current, method, *args, *more)
            for party, more in zip(self._cluster.compute, rest, strict=True)
        ]

    @override
    def disclose(self, value: Owned) -> Value:
        return self._reveal([value.value.data])[0]

    @override
    def at_home(self, value: Owned) -> Value:
        return self._own(self._owners[value.party], value.value.data)

    @override
    def settle(self) -> None:
        drained = self._reveal(self._everywhere("drain"))
        for costs in drained:
            self.ledger.add(costs)
        sent = [sum(phase["total"]["bytes_total"] for phase in costs.values()) for costs in drained]
        self.journal.write("sent", bytes_by_party=dict(zip(self._cluster.compute, sent, strict=True)))

    @override
    def free_memory_bytes(self) -> int:
        # A simulation's parties share one machine.
        sharing = self.parties if self._party is None else 1
        least: int = min(self._reveal(self._everywhere("free_memory_bytes")))
        return least // sharing

    @override
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        if id(program) not in self._loaded:  # programs live as long as the runtime
            self._agree_on(program)
            self._loaded[id(program)] = len(self._loaded)
            openings = len(program.audit.openings)
            self._everywhere("load", self._loaded[id(program)], program.name, program.code, openings)
        names = [handle.name for handle in inputs], [handle.name for handle in outputs]
        done = self._everywhere("execute", self.ledger.current, self._loaded[id(program)], *names)
        for name, ref in zip(self._cluster.compute, done, strict=True):
            self._own(name, ref)

    def _agree_on(self, program: Program) -> None:
        """Compare a program with what the other parties' drivers have compiled, before it first runs.

        Raises: RuntimeFailure at all parties, naming the program and two parties that have different ones.
        """
        digest = program.audit.sha256
        self.journal.write("program", name=program.name, sha256=digest, openings=len(program.audit.openings))
        if self._party is None:
            return
        found = self.gather([program.name, digest])
        for other, theirs in found.items():
            if theirs != [program.name, digest]:
                self._failure = RuntimeFailure(
                    f"the program {program.name} differs: its SHA-256 is {digest} at {self._party}, but {other} has "
                    f"{shown(theirs)}: install the same secp-spu, unchanged, at all parties"
                )
                raise self._failure

    @override
    def close(self) -> None:
        if self._failure:
            return
        if self._watch:
            self.gather(None)  # nobody leaves while another still waits for a message
            self._watch.end()
        self.journal.write("end", outcome="done")
        self._failure = RuntimeFailure("the runtime is closed")
        sf.shutdown(barrier_on_shutdown=False)
        end_ray_processes()

    @override
    def abandon(self) -> None:
        """As `close`, but nothing is waited for that may never come.

        The process should end after it, by `end_ray_processes` and then at once.
        SecretFlow's own shutdown waits for parties that may be gone, and Ray's crashes while a thread waits for it.
        """
        with suppress(ConfigError):  # there is an error already
            self.journal.write("end", outcome="failed")
        self._failure = self._failure or RuntimeFailure("the runtime is closed")
        if self._watch and self._lingers:
            linger(self._watch)
        if self._watch is None and self._waiting.done():
            ray.shutdown()
            end_ray_processes()

    def _tell(self, party: str, method: str, *args: object) -> Remote:
        """Ask one compute party for something; returns a reference to the result."""
        if self._failure:
            raise self._failure
        return self._spu.actors[party].call.remote(method, *args)

    def _everywhere(self, method: str, *args: object) -> list[Remote]:
        return [self._tell(party, method, *args) for party in self._cluster.compute]

    def _own(self, party: str, ref: Remote) -> Value:
        """The value behind a reference if it is this process's own, None otherwise; waits for it."""
        if self._party is None:
            return self._wait(lambda: ray.get(ref), party)
        return self._wait(lambda: ray.get(ref.get_ray_object_ref()), party) if self._party == party else None

    def _reveal(self, refs: Sequence[Remote]) -> list[Value]:
        """The values behind references, known to all; waits for them."""
        values: list[Value] = self._wait(lambda: sfd.get(list(refs)))
        return values

    def _wait(self, get: Callable[[], Result], party: str | None = None) -> Result:
        """Wait for a result, of `party` if it is one's, as long as all parties are there.

        Raises: RuntimeFailure; what an owner's object raised.
        """
        if self._failure:
            raise self._failure
        self._waiting = waiting = self._waiter.submit(get)
        try:
            while True:
                try:
                    return waiting.result(_POLL_SECONDS)
                except NotYet:
                    if self._watch:
                        self._watch.check()
        except RuntimeFailure as failure:
            self._failure = failure
            raise
        except Exception as error:
            cause = _cause(error)
            self._failure = _failure_of(cause, party or self._party, self._oom_kills)
            if isinstance(cause, OwnerError):
                raise cause.original from None
            if isinstance(cause, RefusedMessage):
                self._lingers = False  # the others find this party gone, and its own output says why
            elif self._watch and not isinstance(cause, FedRemoteError):
                mine, self._failure = self._failure, self._watch.explain(self._failure)
                self._lingers = self._failure is not mine
            raise self._failure from error


def _cause(error: BaseException) -> BaseException:
    """What went wrong first: Ray wraps it once for every call that it was passed on to."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error


def _failure_of(error: BaseException, party: str | None, oom_kills_before: int | None) -> RuntimeFailure:
    """One line on what went wrong, and at which party as far as this process knows."""
    where = party or "a party"
    if isinstance(error, FedRemoteError):
        return RuntimeFailure(f"{error._src_party} failed: see its own output")
    if isinstance(error, RefusedMessage):
        return RuntimeFailure(str(error))
    if isinstance(error, ray.exceptions.RayActorError):
        why = RAY_KILLED if "OUT_OF_MEMORY" in str(error) else why_killed(oom_kills_before)
        return RuntimeFailure(f"{where} failed: a process of it has ended, {why}")
    return RuntimeFailure(f"{where} failed: {first_line(error)}")
