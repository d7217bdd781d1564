"""All parties in this process: a thread, a persistent SPU runtime and its own random streams each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import NoReturn, TypeAlias, TypeVar

import jax
from spu import Runtime as SpuRuntime
from spu import libspu
from typing_extensions import override

from secp_spu.errors import RuntimeFailure
from secp_spu.protocol import Correction, CosineCorrelation, Dealer, MaskStream, Scheme, party_streams
from secp_spu.runtime.chain import parts_of
from secp_spu.runtime.compute_party import BOOKED, ComputeParty, join, public_steps, split, spu_config
from secp_spu.runtime.handles import Owned, Stored, Value, spec_of
from secp_spu.runtime.heap import give_back, keep_freed_memory
from secp_spu.runtime.ledger import Cost
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.profile import UnprovenOpening, profile_log
from secp_spu.runtime.program import Program
from secp_spu.runtime.sharing_runtime import SharingRuntime, Source, check_source
from secp_spu.trees import Tree

Result = TypeVar("Result")

DEFAULT_TIMEOUT_SECONDS = 300
"""How long a party waits for a message before it gives up: far longer than any one operation of a layer takes."""

_LINKS = count()
"""Numbers the links of this process: by one name SPU gives out one link, with the messages of all who use it."""


class LocalRuntime(OneProcessRuntime, SharingRuntime):
    """SPU parties as threads of this process, linked in memory: the embedded default.

    The process sees everything, so this protects nothing; it computes and costs what separate machines would.

        >>> import numpy as np
        >>> from secp_spu import LocalRuntime, Owned
        >>> with LocalRuntime("semi2k", 2) as runtime:
        ...     x = runtime.share(Owned("alice", np.float32([1, 2, 3])))
        ...     y = runtime.share(Owned("bob", np.float32([4, 5, 6])))
        ...     product = runtime.open_to("alice", runtime.jit(lambda x, y: x @ y)(x, y))
        ...     online = runtime.ledger.report()["online"]["programs"]
        >>> round(float(product.value), 2), sorted(online)
        (32.0, ['lambda', 'open_to', 'share'])

    Args:
        protocol: "aby3" (three parties) or "semi2k" (two or more).
        parties: how many.
        correlations: "joint": made by the parties together; "dealt": by a dealer who knows every mask.
        timeout_seconds: how long a party waits for a message.
    Raises: ValueError for a protocol, number of parties or source of correlations that does not exist, and for a
        timeout that is no whole number of seconds.
    """

    def __init__(
        self,
        protocol: str = "aby3",
        parties: int = 3,
        *,
        correlations: Source = "joint",
        timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS,
    ):
        check_source(correlations)
        if not isinstance(timeout_seconds, int) or timeout_seconds < 1:
            raise ValueError(f"timeout_seconds is {timeout_seconds!r}, but must be a whole number, 1 or more")
        super().__init__(protocol, parties)
        self._shares = MaskStream()
        by_rank, originals = party_streams(self._scheme)
        self._dealer = Dealer(self._scheme, originals) if correlations == "dealt" else None
        self._failure: RuntimeFailure | None = None
        self._rows: list[tuple[str, Cost]] = []
        profile_log().acquire()
        keep_freed_memory()
        self._parties = self._make_parties(by_rank, timeout_seconds)
        self._everywhere(lambda party: party.connect())

    def _make_parties(self, by_rank: list[dict[int, MaskStream]], timeout_seconds: int) -> list[PartyThread]:
        """Threads that wait for tasks; a runtime whose parties are elsewhere has its own."""
        link = f"{self.protocol}-{next(_LINKS)}"
        return [PartyThread(self._scheme, rank, streams, link, timeout_seconds) for rank, streams in enumerate(by_rank)]

    @property
    @override
    def _has_dealer(self) -> bool:
        return self._dealer is not None

    @override
    def _split_at_owner(self, values: Owned) -> tuple[Tree, Iterator[tuple[int, list[Value]]]]:
        leaves = jax.tree.leaves(values.value)
        # One by one, so that no more than one array's components are held.
        batches = ((1, split([leaf], self._scheme, self._shares)) for leaf in leaves)
        return jax.tree.map(lambda leaf: spec_of(leaf, secret=True), values.value), batches

    @override
    def _join_at_owner(self, party: str, specs: Tree, parts: list[Value]) -> Owned:
        leaves, tree = jax.tree.flatten(specs)
        return Owned(party, jax.tree.unflatten(tree, join(parts, leaves)))

    @override
    def _correct(self, wanted: CosineCorrelation) -> Correction:
        if self._dealer is None:
            raise ValueError("there is no dealer: the parties make correlations")
        return self._dealer.correct(wanted)

    @override
    @contextmanager
    def _booked(self, program: str) -> Iterator[None]:
        with self.ledger.timed(program) as self._rows:
            yield

    @override
    def _ask_all(self, method: str, *args: object, each: Sequence[object] | None = None) -> list[Value]:
        def ask(party: PartyThread) -> tuple[Value, Cost | None]:
            return party.side.ask(method, *args, *([] if each is None else [each[party.rank]]))

        answers = self._everywhere(ask)
        self._rows += [(BOOKED[method], cost) for _, cost in answers if cost is not None]
        return [result for result, _ in answers]

    @override
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        names = [handle.name for handle in inputs], [handle.name for handle in outputs]
        openings, parts = len(program.audit.openings), parts_of(program.code)
        try:
            with (
                self.ledger.timed(program.name) as rows,
                profile_log().run(program.name, self.parties, openings, rows, parts=parts),
            ):
                public = self._everywhere(lambda party: party.side.execute(program.name, program.code, *names))
                rows += public_steps(public)
        except UnprovenOpening as error:
            self._end_all(RuntimeFailure(f"all parties ended: {error}"), error)

    def _everywhere(self, task: Callable[[PartyThread], Result]) -> list[Result]:
        """Run a task at all parties at once; the first failure ends them all.

        Raises: RuntimeFailure naming the rank that failed first.
        """
        if self._failure:
            raise self._failure
        done: Done = queue.Queue()
        for party in self._parties:
            party.submit(task, done)
        results: dict[int, Result] = {}
        for _ in self._parties:
            rank, result, error = done.get()
            if error:
                self._fail(rank, error)
            results[rank] = result
        return [results[rank] for rank in range(self.parties)]

    def _fail(self, rank: int, error: BaseException) -> NoReturn:
        """Report the failure at once; a party that waits for a message of the failed one ends when its wait does."""
        self._end_all(RuntimeFailure(f"rank {rank} failed, all parties ended: {first_line(error)}"), error)

    def _end_all(self, failure: RuntimeFailure, cause: BaseException) -> NoReturn:
        self._failure = failure
        for party in self._parties:
            party.end()
        raise failure from cause

    @override
    def close(self) -> None:
        """A program that runs is finished first; after a failure nothing is waited for, and SPU may still log."""
        if self._failure is None:
            self._failure = RuntimeFailure("the runtime is closed")
            for party in self._parties:
                party.end()
            for party in self._parties:
                party.thread.join()
            profile_log().release()
            give_back()


Task: TypeAlias = "Callable[[PartyThread], Value]"
"""What a party's thread is asked to do."""

Done: TypeAlias = "queue.Queue[tuple[int, Value, BaseException | None]]"
"""Where parties report: rank, result, and the error that came instead of a result."""


class PartyThread:
    """A compute party: a daemon thread that runs one task after another."""

    def __init__(self, scheme: Scheme, rank: int, streams: Mapping[int, MaskStream], link: str, timeout_seconds: int):
        self.rank = rank
        self.spu: SpuRuntime
        self.side: ComputeParty
        self._streams = streams
        self._scheme, self._link, self._timeout_seconds = scheme, link, timeout_seconds
        self._tasks: queue.Queue[tuple[Task, Done] | None] = queue.Queue()
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
        self.spu = SpuRuntime(link, spu_config(self._scheme))
        self.side = ComputeParty(self._scheme, self.rank, self.spu, link, streams=self._streams)

    def submit(self, task: Task, done: Done) -> None:
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


def first_line(error: BaseException) -> str:
    """SPU's errors carry a C++ stack; the line that says what is wrong stands before it."""
    lines = [line.strip() for line in str(error).replace("what:", "").splitlines()]
    return next((line for line in lines if line), type(error).__name__)
