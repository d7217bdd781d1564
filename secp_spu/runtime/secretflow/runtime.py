"""The same interface on SecretFlow's PYU and SPU devices: simulated on one machine, or one process for each party.

In a cluster every party runs the same driver, which compiles and audits every program itself; only the party's own
devices run here. What crosses between parties: owners' shares to the compute parties that hold them, keys of mask
streams to the components' holders, corrections from the dealer, opened parts to the owner that they are opened to,
SPU's own messages, and what is disclosed to all.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from spu import libspu

from secp_spu.config import ClusterSection
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.network.meeting import Facts
from secp_spu.network.messages import RefusedMessage, shown
from secp_spu.protocol import Correction, CosineCorrelation, Dealer, MaskStream, Scheme
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime.base import Correlations, Owned, Runtime, Stored, is_declared, spec_of
from secp_spu.runtime.cgroup import available_bytes, oom_kills, why_killed
from secp_spu.runtime.compute_party import ComputeParty, join, split, spu_settings
from secp_spu.runtime.journal import Journal
from secp_spu.runtime.ledger import Cost, Ledger, Phase
from secp_spu.runtime.local import first_line
from secp_spu.runtime.profile import profile_log
from secp_spu.runtime.program import Program, Tree
from secp_spu.runtime.secretflow.ray_processes import end_ray_processes
from secp_spu.runtime.secretflow.spu_logging import provide_spu_logging, worker_hook

SPU_LOGGING_PATCHED = provide_spu_logging()  # before SecretFlow, which cannot be imported without

import ray  # noqa: E402
import secretflow as sf  # noqa: E402
import secretflow.distributed as sfd  # noqa: E402
from fed.exceptions import FedRemoteError  # noqa: E402
from secretflow.device.device.spu import SPURuntime  # noqa: E402

from secp_spu.runtime.secretflow.start import (  # noqa: E402
    Agree,
    certificates_of,
    linger,
    start_party,
    start_simulation,
)

_POLL_SECONDS = 0.5
RAY_KILLED = (
    "for lack of memory, as Ray says, which keeps a part of the machine's free: lower tuning.candidates_per_call"
)


class SecretFlowRuntime(Runtime):
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
        self._scheme, self._cluster, self._party = Scheme(protocol, self.parties), cluster, party
        self._owners = {"data_owner": cluster.data_owner, "model_owner": cluster.model_owner}
        self._failure: RuntimeFailure | None = None
        self._oom_kills = oom_kills()
        self._waiter = ThreadPoolExecutor(1, "secretflow")
        self._waiting: Future[Any] = Future()
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
            self._spu = _SpuDevice(self._scheme, cluster, party)
            self._dealer = self._exchange_keys()
            self._reveal([self._tell(name, "ready") for name in cluster.compute])
        except BaseException:
            self.abandon()
            raise

    def _exchange_keys(self) -> Any:
        """A key for each component of the masks, at its holders alone; with a dealer, made by it and known to it."""
        names, dealer = self._cluster.compute, None
        if self._cluster.dealer is not None:
            dealer = _actor(_DealerHost, sf.PYU(self._cluster.dealer), self._scheme)
        for component in range(self.parties):
            first, *others = self._scheme.holders(component)
            if dealer is not None:
                others, key = [first, *others], dealer.key(component).data
            else:
                key = self._tell(names[first], "make_key", component)
            for rank in others:
                self._tell(names[rank], "take_key", component, key)
        return dealer

    def gather(self, value: Any) -> dict[str, Any]:
        """See `Runtime.gather`."""
        everyone = self._cluster.everyone
        return dict(zip(everyone, self._reveal([sf.PYU(p)(_same)(value).data for p in everyone]), strict=True))

    def actor(self, party: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> _OwnerActor:
        """See `Runtime.actor`."""
        return _OwnerActor(party, _actor(_OwnerHost, sf.PYU(self._owners[party]), make, args, kwargs))

    def share(self, values: Owned) -> Tree:
        """See `Runtime.share`. Components are drawn at the owner; each party receives those that it holds."""
        shared = sf.PYU(self._owners[values.party])(_split, num_returns=1 + self.parties)(values.value, self._scheme)
        specs, *parts = [part.data for part in shared]
        (found,) = self._reveal([specs])
        handles = jax.tree.map(lambda spec: Stored(next(self._names), spec), found)
        names = [handle.name for handle in jax.tree.leaves(handles)]
        dtypes = [handle.spec.dtype for handle in jax.tree.leaves(handles)]
        for name, part in zip(self._cluster.compute, parts, strict=True):
            self._tell(name, "store_secret", self.ledger.current, names, dtypes, part)
        return handles

    def publish(self, values: Tree) -> Tree:
        """See `Runtime.publish`."""
        leaves, tree = jax.tree.flatten(values)
        handles = self._public_handles(leaves)
        if leaves:
            self._everywhere("store_public", [handle.name for handle in handles], leaves)
        return jax.tree.unflatten(tree, handles)

    def open_to(self, party: str, values: Tree) -> Owned:
        """See `Runtime.open_to`. Each compute party sends one component, 8 bytes an element."""
        self._refuse_unopenable(values)
        parts = self._everywhere("open", self.ledger.current, [handle.name for handle in jax.tree.leaves(values)])
        specs, owner = jax.tree.map(lambda handle: handle.spec, values), sf.PYU(self._owners[party])
        shapes = [spec.shape for spec in jax.tree.leaves(specs)]
        self.journal.write("opened", to=self._owners[party], shapes=shapes, numbers=sum(map(math.prod, shapes)))
        return Owned(party, owner(_join)(specs, *(sf.PYUObject(owner, part) for part in parts)))

    def disclose(self, value: Owned) -> Any:
        """See `Runtime.disclose`."""
        return self._reveal([value.value.data])[0]

    def at_home(self, value: Owned) -> Any:
        """See `Runtime.at_home`."""
        return self._own(self._owners[value.party], value.value.data)

    def settle(self) -> None:
        """See `Runtime.settle`."""
        drained = self._reveal(self._everywhere("drain"))
        for costs in drained:
            self.ledger.add(costs)
        sent = [sum(phase["total"]["bytes_total"] for phase in costs.values()) for costs in drained]
        self.journal.write("sent", bytes_by_party=dict(zip(self._cluster.compute, sent, strict=True)))

    def free_memory_bytes(self) -> int:
        """See `Runtime.free_memory_bytes`. A simulation's parties share one machine."""
        sharing = self.parties if self._party is None else 1
        return min(self._reveal(self._everywhere("free_memory_bytes"))) // sharing

    def correlations(self, declared: Tree) -> Correlations:
        """See `Runtime.correlations`."""
        make = self._deal if self._dealer is not None else self._make_jointly
        return self._made(jax.tree.map(make, declared, is_leaf=is_declared))

    def _deal(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        names = jax.tree.map(lambda handle: handle.name, handles)
        correction = self._dealer.correct(wanted).data
        for rank, name in enumerate(self._cluster.compute):
            received = correction if rank in self._scheme.holders(self.parties - 1) else None
            self._tell(name, "deal", self.ledger.current, wanted, names, received)
        return handles

    def _make_jointly(self, wanted: CosineCorrelation) -> CosineCorrelation:
        return self._correlate(wanted) if self._scheme.replicated else self._combine(wanted)

    def _correlate(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        self._everywhere("correlate", self.ledger.current, wanted, jax.tree.map(lambda handle: handle.name, handles))
        return handles

    def _combine(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        factors = self._factor_handles(handles)
        cos, sin = ([handle.name for handle in row] for row in factors)
        self._everywhere("draw", self.ledger.current, wanted, handles.mask.name, cos, sin)
        return self._combined(handles, factors)

    def free(self, values: Tree) -> None:
        """See `Runtime.free`."""
        self._let_go(values)
        if names := [handle.name for handle in jax.tree.leaves(values)]:
            self._everywhere("free", names)

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

    def close(self) -> None:
        """See `Runtime.close`."""
        if self._failure:
            return
        if self._watch:
            self.gather(None)  # nobody leaves while another still waits for a message
            self._watch.end()
        self.journal.write("end", outcome="done")
        self._failure = RuntimeFailure("the runtime is closed")
        sf.shutdown(barrier_on_shutdown=False)
        end_ray_processes()

    def abandon(self) -> None:
        """See `Runtime.abandon`. The process should end after it, by `end_ray_processes` and then at once.

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

    def _tell(self, party: str, method: str, *args: Any) -> Any:
        """Ask one compute party for something; returns a reference to the result."""
        if self._failure:
            raise self._failure
        return self._spu.actors[party].call.remote(method, *args)

    def _everywhere(self, method: str, *args: Any) -> list[Any]:
        return [self._tell(party, method, *args) for party in self._cluster.compute]

    def _own(self, party: str, ref: Any) -> Any:
        """The value behind a reference if it is this process's own, None otherwise; waits for it."""
        if self._party is None:
            return self._wait(lambda: ray.get(ref), party)
        return self._wait(lambda: ray.get(ref.get_ray_object_ref()), party) if self._party == party else None

    def _reveal(self, refs: Sequence[Any]) -> list[Any]:
        """The values behind references, known to all; waits for them."""
        return self._wait(lambda: sfd.get(list(refs)))

    def _wait(self, get: Callable[[], Any], party: str | None = None) -> Any:
        """Wait for a result, of `party` if it is one's, as long as all parties are there.

        Raises: RuntimeFailure; what an owner's object raised.
        """
        if self._failure:
            raise self._failure
        self._waiting = self._waiter.submit(get)
        try:
            while True:
                try:
                    return self._waiting.result(_POLL_SECONDS)
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


class _SpuDevice(sf.SPU):
    """An SPU device whose parties also make correlations and keep a ledger."""

    def __init__(self, scheme: Scheme, cluster: ClusterSection, party: str | None):
        self._scheme = scheme
        milliseconds = cluster.timeout_seconds * 1000
        link = {
            "recv_timeout_ms": milliseconds,
            "http_timeout_ms": milliseconds,
            "connect_retry_times": 120,
            "brpc_channel_connection_type": "single",  # a tenth faster than the default, where parties share cores
        }
        super().__init__(
            {
                "nodes": [_node(cluster, name, party) for name in cluster.compute],
                "runtime_config": spu_settings(scheme),
            },
            link,
        )

    def init(self) -> None:
        """Start the parties; SecretFlow calls this."""
        for rank, node in enumerate(self.cluster_def["nodes"]):
            place = sfd.remote(_SpuParty).party(node["party"])
            self.actors[node["party"]] = place.remote(rank, self.cluster_def, self.link_desc, self._scheme)


def _node(cluster: ClusterSection, name: str, party: str | None) -> dict[str, Any]:
    """A compute party as SecretFlow takes it. `party` is this process's, None in a simulation."""
    if party is None or cluster.addresses is None:
        return {"party": name, "address": _free_address()}
    address = cluster.addresses[name]
    node: dict[str, Any] = {"party": name, "address": address.compute}
    if name == party:
        node["listen_address"] = address.bound("compute")
    if files := certificates_of(cluster):
        options = {
            "certificate_path": str(files.certificate),
            "private_key_path": str(files.key),
            "ca_file_path": str(files.ca),
            "verify_depth": 1,
        }
        node["tls_opts"] = {"server_ssl_opts": options, "client_ssl_opts": options}
    return node


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class _SpuParty(SPURuntime):
    """A compute party in a process of its own. Its first failure is the answer to all that follows."""

    def __init__(self, rank: int, cluster_def: dict, link: dict, scheme: Scheme):
        quiet = libspu.logging.LogOptions()
        quiet.enable_console_logger, quiet.system_log_path = False, os.devnull  # else a file in the working directory
        super().__init__(rank, cluster_def, link, quiet)
        self._rank, self._scheme = rank, scheme
        self._log = profile_log()
        self._log.acquire()
        self._ledger = Ledger(1)
        self._keys: dict[int, bytes] = {}
        self._programs: dict[int, tuple[str, bytes, int]] = {}
        self._failure: Exception | None = None
        self._side: ComputeParty

    def call(self, method: str, *args: Any) -> Any:
        """Run one of the methods below."""
        if self._failure:
            raise self._failure
        try:
            return getattr(self, method)(*args)
        except Exception as error:
            self._failure = RuntimeError(first_line(error))
            raise self._failure from None

    def make_key(self, component: int) -> bytes:
        """A fresh key for a component's mask stream, for its other holders."""
        self._keys[component] = os.urandom(KEY_BYTES)
        return self._keys[component]

    def take_key(self, component: int, key: bytes) -> None:
        """The key that another holder, or the dealer, has made."""
        self._keys[component] = key

    def ready(self) -> None:
        """All keys are here."""
        streams = {component: MaskStream(key) for component, key in self._keys.items()}
        self._keys.clear()
        self._side = ComputeParty(self._scheme, self._rank, self.runtime, self.link, streams=streams)

    def store_secret(self, phase: Phase, names: list[str], dtypes: list[np.dtype], parts: list[dict]) -> None:
        with self._ledger.phase(phase), self._ledger.timed("share") as rows:
            received = self._side.store_secret(names, dtypes, parts)
            rows.append(("share", Cost(received, len(names))))

    def store_public(self, names: list[str], values: list[np.ndarray]) -> None:
        self._side.store_public(names, values)

    def open(self, phase: Phase, names: list[str]) -> list[np.ndarray]:
        with self._ledger.phase(phase), self._ledger.timed("open_to") as rows:
            parts = self._side.parts(names)
            rows.append(("open_to", Cost(sum(part.nbytes for part in parts), len(names))))
        return parts

    def free(self, names: list[str]) -> None:
        self._side.free(names)

    def correlate(self, phase: Phase, wanted: CosineCorrelation, names: CosineCorrelation) -> None:
        with self._ledger.phase(phase), self._ledger.timed("correlate") as rows:
            sent = self._side.correlate(wanted, names)
            rows.append(("correlate", Cost(sum(sent), len(sent))))

    def draw(self, phase: Phase, wanted: CosineCorrelation, mask: str, cos: list[str], sin: list[str]) -> None:
        with self._ledger.phase(phase), self._ledger.timed("draw"):
            self._side.draw(wanted, mask, cos, sin)

    def deal(
        self, phase: Phase, wanted: CosineCorrelation, names: CosineCorrelation, correction: Correction | None
    ) -> None:
        with self._ledger.phase(phase), self._ledger.timed("deal") as rows:
            received = self._side.deal(wanted, names, correction)
            rows.append(("deal", Cost(received, int(received > 0))))

    def load(self, number: int, name: str, code: bytes, openings: int) -> None:
        self._programs[number] = name, code, openings

    def execute(self, phase: Phase, number: int, inputs: list[str], outputs: list[str]) -> None:
        name, code, openings = self._programs[number]
        with self._ledger.phase(phase), self._ledger.timed(name) as rows, self._log.run(name, 1, openings, rows):
            self._side.execute(name, code, inputs, outputs)

    def free_memory_bytes(self) -> int:
        return available_bytes()

    def drain(self) -> dict[str, dict]:
        """What this party sent since it was last asked."""
        costs, self._ledger = self._ledger.state(), Ledger(1)
        return costs


class OwnerError(Exception):
    """What an owner's object raised, on its way to the owner's driver; other parties do not get it."""

    @property
    def original(self) -> BaseException:
        """The exception itself."""
        return self.args[0]


class _OwnerHost:
    """An object at its owner's PYU. Its first failure is the answer to all that follows."""

    def __init__(self, make: Callable[..., Any], args: tuple, kwargs: dict):
        self._failure: OwnerError | None = None
        self._instance = self._try(lambda: make(*args, **kwargs))

    def call(self, method: str, args: tuple, kwargs: dict) -> Any:
        """Call a method of the object."""
        if self._failure is None:
            result = self._try(lambda: getattr(self._instance, method)(*args, **kwargs))
        if self._failure:
            raise self._failure
        return result

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            self._failure = OwnerError(error)


class _OwnerActor:
    """An owner's object, for the driver; what its methods return belongs to the owner."""

    def __init__(self, party: str, host: Any):
        self._party, self._host = party, host

    def __getattr__(self, name: str) -> Callable[..., Owned]:
        def call(*args: Any, **kwargs: Any) -> Owned:
            plain = jax.tree.map(self._mine, (args, kwargs), is_leaf=lambda node: isinstance(node, Owned))
            return Owned(self._party, self._host.call(name, *plain))

        return call

    def _mine(self, value: Any) -> Any:
        if not isinstance(value, Owned):
            return value
        if value.party != self._party:
            raise ValueError(f"{self._party} was given a value of {value.party}: owners do not see each other's values")
        return value.value


class _DealerHost:
    """The dealer, at its own PYU: makes the keys of all mask streams, and corrects."""

    def __init__(self, scheme: Scheme):
        self._keys = [os.urandom(KEY_BYTES) for _ in range(scheme.parties)]
        self._dealer = Dealer(scheme, [MaskStream(key) for key in self._keys])

    def key(self, component: int) -> bytes:
        """For the holders of a component."""
        return self._keys[component]

    def correct(self, wanted: CosineCorrelation) -> Correction:
        """See `Dealer.correct`; for the holders of the last component."""
        return self._dealer.correct(wanted)


def _actor(host: type, place: sf.PYU, *args: Any) -> Any:
    return sf.proxy(sf.PYUObject)(host)(*args, device=place)


def _same(value: Any) -> Any:
    return value


def _split(values: Tree, scheme: Scheme) -> tuple:
    """At the owner: specs of its arrays, and for each rank the components that it holds."""
    leaves, tree = jax.tree.flatten(values)
    specs = jax.tree.unflatten(tree, [spec_of(leaf, secret=True) for leaf in leaves])
    return specs, *split(leaves, scheme, MaskStream())


def _join(specs: Tree, *parts: Sequence[np.ndarray]) -> Tree:
    """At the owner: the arrays that the parties' parts add up to."""
    leaves, tree = jax.tree.flatten(specs)
    return jax.tree.unflatten(tree, join(parts, leaves))


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
