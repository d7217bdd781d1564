"""Keeps the books: bytes, sends and seconds by phase, operation and program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias, TypedDict, cast

Phase = Literal["setup", "offline", "online"]
PHASES: tuple[Phase, ...] = ("setup", "offline", "online")


@dataclass
class Cost:
    """Sums over the compute parties: bytes sent, messages sent, and seconds."""

    bytes_total: int = 0
    sends_total: int = 0
    seconds: float = 0.0

    def add(self, other: Cost) -> None:
        """Add another's figures to this one's."""
        self.bytes_total += other.bytes_total
        self.sends_total += other.sends_total
        self.seconds += other.seconds


@dataclass
class PhaseCost:
    """The cost of a phase, and the same by operation and by program."""

    total: Cost = field(default_factory=Cost)
    operations: dict[str, Cost] = field(default_factory=dict)
    programs: dict[str, Cost] = field(default_factory=dict)


class CostState(TypedDict):
    """A Cost in a checkpoint."""

    bytes_total: int
    sends_total: int
    seconds: float


class PhaseState(TypedDict):
    """A PhaseCost in a checkpoint."""

    total: CostState
    operations: dict[str, CostState]
    programs: dict[str, CostState]


LedgerState: TypeAlias = dict[str, PhaseState]
"""All figures of a ledger by phase, for a checkpoint."""


class CostLine(TypedDict):
    """One line of a report: bytes and sends are the mean over the compute parties, `bytes_total` their sum."""

    bytes: float
    bytes_total: int
    sends: float
    seconds: float


class PhaseLine(CostLine):
    """The line of a phase, and the same by operation and by program."""

    operations: dict[str, CostLine]
    programs: dict[str, CostLine]


LedgerReport: TypeAlias = dict[str, PhaseLine]
"""What a run cost, by phase."""


class Ledger:
    """Bytes and sends, exact; seconds, of this machine.

    What compute parties send each other comes from SPU's own counters. Three operations are not SPU's: `share` (an
    owner sends shares to the parties), `open_to` (the parties send shares to an owner) and `deal` (a dealer sends
    corrections). Their bytes are what crosses between machines if owners, dealer and parties are all different.

    Seconds of a phase are wall-clock time inside the runtime, where parties have processes of their own the mean of
    theirs; of an operation, the mean over the parties.

    Attributes:
        current: the phase that is booked under.
    """

    def __init__(self, parties: int):
        self.parties = parties
        self.phases: dict[Phase, PhaseCost] = {phase: PhaseCost() for phase in PHASES}
        self.current: Phase = "online"

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Book what happens inside under `phase`."""
        before, self.current = self.current, phase
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def timed(self, program: str) -> Iterator[list[tuple[str, Cost]]]:
        """Book wall-clock time, and the (operation, cost) rows that the body appends, under `program`."""
        rows: list[tuple[str, Cost]] = []
        start = time.perf_counter()
        yield rows
        self._book(program, rows, time.perf_counter() - start)

    def _book(self, program: str, rows: list[tuple[str, Cost]], seconds: float) -> None:
        phase = self.phases[self.current]
        total = Cost(sum(cost.bytes_total for _, cost in rows), sum(cost.sends_total for _, cost in rows), seconds)
        phase.total.add(total)
        phase.programs.setdefault(program, Cost()).add(total)
        for operation, cost in rows:
            phase.operations.setdefault(operation, Cost()).add(cost)

    def report(self) -> LedgerReport:
        """For each phase `bytes` and `sends` (mean over the parties), `bytes_total` (their sum), `seconds`.

        The same under `operations` and `programs`.
        """
        return {
            name: {
                **self._line(phase.total),
                "operations": {k: self._line(c) for k, c in _largest_first(phase.operations)},
                "programs": {k: self._line(c) for k, c in _largest_first(phase.programs)},
            }
            for name, phase in self.phases.items()
        }

    def _line(self, cost: Cost) -> CostLine:
        return {
            "bytes": cost.bytes_total / self.parties,
            "bytes_total": cost.bytes_total,
            "sends": cost.sends_total / self.parties,
            "seconds": round(cost.seconds, 6),
        }

    def add(self, state: LedgerState) -> None:
        """Add the figures of one party's own ledger, of which there are `parties`."""
        one = Ledger(1)
        one.restore(state)
        for name, phase in one.phases.items():
            mine = self.phases[name]
            self._add(mine.total, phase.total)
            for ours, theirs in ((mine.operations, phase.operations), (mine.programs, phase.programs)):
                for key, cost in theirs.items():
                    self._add(ours.setdefault(key, Cost()), cost)

    def _add(self, sum_: Cost, cost: Cost) -> None:
        sum_.add(Cost(cost.bytes_total, cost.sends_total, cost.seconds / self.parties))

    def state(self) -> LedgerState:
        """All figures, for a checkpoint."""
        return {name: cast(PhaseState, asdict(phase)) for name, phase in self.phases.items()}

    def restore(self, state: LedgerState) -> None:
        """Go on from the figures of a checkpoint."""
        for name in PHASES:
            saved = state[name]
            self.phases[name] = PhaseCost(
                Cost(**saved["total"]),
                {k: Cost(**c) for k, c in saved["operations"].items()},
                {k: Cost(**c) for k, c in saved["programs"].items()},
            )


def _largest_first(costs: dict[str, Cost]) -> list[tuple[str, Cost]]:
    return sorted(costs.items(), key=lambda item: -item[1].bytes_total)
