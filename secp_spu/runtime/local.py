"""All parties in this process: a thread, a persistent SPU runtime and its own random streams each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from spu import Runtime as SpuRuntime
from spu import libspu

from secp_spu.protocol import (
    FRACTION_BITS,
    CorrelationMaker,
    CosineCorrelation,
    Dealer,
    MaskStream,
    Scheme,
    combine_factors,
    decode,
    encode,
    party_streams,
)
from secp_spu.runtime.base import Correlations, Owned, RuntimeFailure, Stored, is_declared, spec_of
from secp_spu.runtime.ledger import Cost, profile_log
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.program import Program, Tree

Source = Literal["joint", "dealt"]
Result = TypeVar("Result")

DEFAULT_TIMEOUT_SECONDS = 300
"""How long a party waits for a message before it gives up: far longer than any one operation of a layer takes."""

_LINKS = count()
"""Numbers the links of this process: by one name SPU gives out one link, with the messages of all who use it."""


class LocalRuntime(OneProcessRuntime):
    """SPU parties as threads of this process, linked in memory: the embedded default.

    The process sees everything, so this protects nothing; it computes and costs what separate machines would.

    Args:
        protocol: "aby3" (three parties) or "semi2k" (two or more).
        parties: how many.
        correlations: "joint": made by the parties together; "dealt": by a dealer who knows every mask.
        timeout_seconds: how long a party waits for a message.
    Raises: ValueError for a protocol or number of parties that does not exist.
    """

    def __init__(
        self,
        protocol: str = "aby3",
        parties: int = 3,
        *,
        correlations: Source = "joint",
        timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS,
    ):
        super().__init__(protocol, parties)
        self._scheme = Scheme(protocol, parties)
        self._source = correlations
        self._shares = MaskStream()
        by_rank, originals = party_streams(self._scheme)
        self._dealer = Dealer(self._scheme, originals) if correlations == "dealt" else None
        self._failure: RuntimeFailure | None = None
        profile_log()
        link = f"{protocol}-{next(_LINKS)}"
        self._parties = [_Party(self._scheme, rank, by_rank[rank], link, timeout_seconds) for rank in range(parties)]
        self._everywhere(_Party.connect)

    def share(self, values: Owned) -> Tree:
        """See `Runtime.share`. Fresh uniform shares from the operating system's randomness."""
        with self.ledger.timed("share") as rows:
            leaves, tree = jax.tree.flatten(values.value)
            handles = [Stored(next(self._names), spec_of(leaf, secret=True)) for leaf in leaves]
            for handle, leaf in zip(handles, leaves, strict=True):
                self._share_one(handle, leaf, rows)
        return jax.tree.unflatten(tree, handles)

    def _share_one(self, handle: Stored, leaf: np.ndarray, rows: list[tuple[str, Cost]]) -> None:
        components = dict(enumerate(self._scheme.split(encode(leaf), self._shares)))

        def store(party: _Party) -> int:
            share = self._scheme.share(party.rank, components, handle.spec.dtype)
            party.spu.set_var(handle.name, share)
            return sum(components[c].nbytes for c in self._scheme.held_by(party.rank))

        rows.append(("share", Cost(sum(self._everywhere(store)), self.parties)))

    def publish(self, values: Tree) -> Tree:
        """See `Runtime.publish`."""
        leaves, tree = jax.tree.flatten(values)
        handles = [Stored(next(self._names), spec_of(leaf, secret=False)) for leaf in leaves]
        shares = [self._scheme.public(leaf) for leaf in leaves]

        def store(party: _Party) -> None:
            for handle, share in zip(handles, shares, strict=True):
                party.spu.set_var(handle.name, share)

        self._everywhere(store)
        return jax.tree.unflatten(tree, handles)

    def open_to(self, party: str, values: Tree) -> Owned:
        """See `Runtime.open_to`. Each compute party sends one component, 8 bytes an element."""
        self._refuse_unspent(values)
        leaves, tree = jax.tree.flatten(values)
        with self.ledger.timed("open_to") as rows:
            found = self._everywhere(lambda p: [p.spu.get_var(handle.name) for handle in leaves])
            elements = [self._scheme.reconstruct(shares) for shares in zip(*found, strict=True)]
            sent = sum(array.nbytes for array in elements) * self.parties
            rows.append(("open_to", Cost(sent, self.parties * len(leaves))))
        arrays = [decode(array, handle.spec.dtype) for array, handle in zip(elements, leaves, strict=True)]
        return Owned(party, jax.tree.unflatten(tree, arrays))

    def free(self, values: Tree) -> None:
        """See `Runtime.free`."""
        names = [handle.name for handle in jax.tree.leaves(values)]
        if names:
            self._everywhere(lambda party: [party.spu.del_var(name) for name in names])

    def correlations(self, declared: Tree) -> Correlations:
        """See `Runtime.correlations`."""
        make = partial(self._deal, self._dealer) if self._dealer else self._make_jointly
        return self._made(jax.tree.map(make, declared, is_leaf=is_declared))

    def _deal(self, dealer: Dealer, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        with self.ledger.timed("deal") as rows:
            correction = dealer.correct(wanted)

            def store(party: _Party) -> int:
                last = self.parties - 1 in self._scheme.held_by(party.rank)
                received = correction if last else None
                for handle, share in zip(jax.tree.leaves(handles), party.maker.dealt(wanted, received), strict=True):
                    party.spu.set_var(handle.name, share)
                return received.nbytes if received else 0

            sent = self._everywhere(store)
            rows.append(("deal", Cost(sum(sent), sum(size > 0 for size in sent))))
        return handles

    def _make_jointly(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        spec = handles.cos.spec
        factors = [[Stored(next(self._names), spec) for _ in range(self.parties)] for _ in ("cos", "sin")]

        def store(party: _Party) -> None:
            shares = party.maker.joint(wanted)
            party.spu.set_var(handles.mask.name, shares.mask)
            for row, column in zip(factors, (shares.cos, shares.sin), strict=True):
                for handle, share in zip(row, column, strict=True):
                    party.spu.set_var(handle.name, share)

        with self.ledger.timed("draw"):
            self._everywhere(store)
        cos, sin = self.run("combine", combine_factors, *factors)
        self.free(factors)
        return CosineCorrelation(handles.mask, cos, sin, wanted.factor_bits)

    def _handles(self, wanted: CosineCorrelation) -> CosineCorrelation:
        return jax.tree.map(lambda leaf: Stored(next(self._names), spec_of(leaf, secret=True)), wanted)

    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        names = [handle.name for handle in inputs], [handle.name for handle in outputs]
        executable = libspu.Executable(
            name=program.name, input_names=names[0], output_names=names[1], code=program.code
        )
        with self.ledger.timed(program.name) as rows, profile_log().run(self.parties, rows):
            self._everywhere(lambda party: party.spu.run(executable))

    def _everywhere(self, task: Callable[[_Party], Result]) -> list[Result]:
        """Run a task at all parties at once; the first failure ends them all.

        Raises: RuntimeFailure naming the rank that failed first.
        """
        if self._failure:
            raise self._failure
        done: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue()
        for party in self._parties:
            party.submit(task, done)
        results: dict[int, Any] = {}
        for _ in self._parties:
            rank, result, error = done.get()
            if error:
                self._fail(rank, error)
            results[rank] = result
        return [results[rank] for rank in range(self.parties)]

    def _fail(self, rank: int, error: BaseException) -> None:
        """Report the failure at once; a party that waits for a message of the failed one ends when its wait does."""
        self._failure = RuntimeFailure(f"rank {rank} failed, all parties ended: {_first_line(error)}")
        for party in self._parties:
            party.end()
        raise self._failure from error

    def close(self) -> None:
        """See `Runtime.close`. A program that runs is finished first; after a failure nothing is waited for."""
        if self._failure is None:
            self._failure = RuntimeFailure("the runtime is closed")
            for party in self._parties:
                party.end()
            for party in self._parties:
                party.thread.join()


class _Party:
    """A compute party: a daemon thread that runs one task after another."""

    def __init__(self, scheme: Scheme, rank: int, streams: Mapping[int, MaskStream], link: str, timeout_seconds: int):
        self.rank = rank
        self.maker = CorrelationMaker(scheme, rank, streams)
        self.spu: SpuRuntime
        self._scheme, self._link, self._timeout_seconds = scheme, link, timeout_seconds
        self._tasks: queue.Queue[tuple[Callable, queue.Queue] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, name=f"rank-{rank}", daemon=True)
        self.thread.start()

    def connect(self) -> None:
        """Link up with the others and start an SPU runtime; returns when all are there."""
        description = libspu.link.Desc()
        description.id = self._link
        description.recv_timeout_ms = self._timeout_seconds * 1000
        for rank in range(self._scheme.parties):
            description.add_party(f"rank-{rank}", f"thread-{rank}")
        link = libspu.link.create_mem(description, self.rank)
        config = libspu.RuntimeConfig(
            protocol=self._scheme.kind, field=libspu.FieldType.FM64, fxp_fraction_bits=FRACTION_BITS
        )
        config.enable_pphlo_profile = True
        self.spu = SpuRuntime(link, config)

    def submit(self, task: Callable[[_Party], Any], done: queue.Queue) -> None:
        """Run a task when the earlier ones are done; put (rank, result, error) into `done`."""
        self._tasks.put((task, done))

    def end(self) -> None:
        """End the thread after its tasks."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (item := self._tasks.get()) is not None:
            task, done = item
            try:
                done.put((self.rank, task(self), None))
            except BaseException as error:  # a party's failure of any kind is handed to the driver
                done.put((self.rank, None, error))
                return


def _first_line(error: BaseException) -> str:
    """SPU's errors carry a C++ stack; the line that says what is wrong stands before it."""
    lines = [line.strip() for line in str(error).replace("what:", "").splitlines()]
    return next((line for line in lines if line), type(error).__name__)
