"""Keeps a model owner's limits: counts what a run asks for, across runs, and refuses what would go beyond in a day.

The model owner's own process counts, in a file of its own, before it takes part in what it counts. What it decides is
told to all parties, so that all of them end with a line that names the limit.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone

from typing_extensions import override

from secp_spu.config import LIMITED, Config, LimitsSection
from secp_spu.errors import RuntimeFailure
from secp_spu.files import make_private_folder, write_whole
from secp_spu.runtime import Journal, Runtime

LOCK_SECONDS = 10.0
"""How long a process waits for another that counts in the same file, which takes milliseconds."""

FILE = "file"
"""What the model owner tells the others instead of a limit's name when it cannot count."""

GRANTED = "granted"
"""What the model owner tells the others when its limits allow what is asked for."""


@dataclass(frozen=True)
class Amounts:
    """What a run asks for, or a part of it; see `LimitsSection` for what each counts."""

    generations: int = 0
    evaluations: int = 0
    texts: int = 0
    predictions: int = 0


class LimitReached(RuntimeFailure):
    """The model owner's limits do not allow what is asked for, or it cannot count.

    Attributes:
        limit: key of the limit, or FILE.
    """

    def __init__(self, message: str, limit: str):
        super().__init__(message)
        self.limit = limit


class Account:
    """What was given away today, in a file that processes take turns in.

    Args:
        limits: of the model owner.
        today: gives the day; another one in tests.
    """

    def __init__(self, limits: LimitsSection, today: Callable[[], date] = lambda: datetime.now(timezone.utc).date()):
        self._limits, self._file, self._today = limits, limits.file, today

    def check(self, asked: Amounts) -> None:
        """Raise LimitReached if what is asked for does not fit into what is left of today, or cannot be counted."""
        with self._turn():
            day, counts = self._read()
            self._refuse_beyond(day, counts, asked)
            self._write(day, counts)  # what cannot be written is said before anything is given away

    def count(self, asked: Amounts) -> None:
        """Count what is about to be given away; LimitReached, with nothing counted, where that is more than is left."""
        with self._turn():
            day, counts = self._read()
            self._refuse_beyond(day, counts, asked)
            self._write(day, {key: counts[key] + number for key, number in _by_key(asked).items()})

    def _refuse_beyond(self, day: date, counts: Mapping[str, int], asked: Amounts) -> None:
        for key, limit in self._limits.by_name.items():
            wanted = _by_key(asked)[key]
            if wanted and counts[key] + wanted > limit:
                raise LimitReached(
                    f"cluster.limits.{key} is {limit}: {counts[key]} were counted on {day} (UTC, in {self._file}), and "
                    f"{wanted} more are asked for: refused",
                    key,
                )

    def _read(self) -> tuple[date, dict[str, int]]:
        """Today, and what was counted today."""
        day = self._today()
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            written = date.fromisoformat(content["day"])
            counts = {key: content["counts"][key] for key in LIMITED}
            if any(type(number) is not int or number < 0 for number in counts.values()):
                raise ValueError("a count is no whole number")
        except FileNotFoundError:
            return day, dict.fromkeys(LIMITED, 0)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._unusable(f"is damaged ({_reason(error)}): see what was given away, and remove it") from error
        if written > day:
            raise self._unusable(f"counts for {written}, and today is {day} (UTC): set the clock right, or remove it")
        return day, counts if written == day else dict.fromkeys(LIMITED, 0)

    def _write(self, day: date, counts: Mapping[str, int]) -> None:
        try:
            write_whole(
                self._file, json.dumps({"day": day.isoformat(), "counts": counts}).encode() + b"\n", secret=True
            )
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror}): name another file, or make room") from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other processes from counting in the file."""
        path, end = self._file.with_name(f"{self._file.name}.lock"), time.monotonic() + LOCK_SECONDS
        try:
            make_private_folder(path.parent)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror}): name another file") from error
        try:
            while not _locked(lock):
                if time.monotonic() > end:
                    raise self._unusable("is held by another process: end that, or name another file")
                time.sleep(0.01)
            yield
        finally:
            os.close(lock)  # which gives the lock back

    def _unusable(self, problem: str) -> LimitReached:
        return LimitReached(f"cluster.limits.file: {self._file} {problem}", FILE)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(getattr(error, "strerror", None) or error)


def _by_key(asked: Amounts) -> dict[str, int]:
    """Amounts by the key of their limit.

    Raises: ValueError for an amount below zero, which would give back what was counted.
    """
    found = {f"{name}_a_day": number for name, number in asdict(asked).items()}
    if any(number < 0 for number in found.values()):
        raise ValueError(f"{asked} has an amount below zero")
    return found


class Allowance:
    """Asks the model owner for what a run is about to do. This one, of a process that is all parties, always grants."""

    def begin(self, asked: Amounts) -> None:
        """Ask whether a whole run fits; nothing is counted yet.

        Raises: LimitReached at all parties.
        """

    def take(self, asked: Amounts) -> None:
        """Ask for the next part of the run, which the model owner counts before the part begins.

        Raises: LimitReached at all parties.
        """


class ClusterAllowance(Allowance):
    """The same in a cluster: the model owner's process decides, and tells all parties.

    Args:
        gather: gives what every party passes to it, by party.
        model_owner: who decides; what others pass is not looked at.
        data_owner: who asks, for the log.
        account: at the model owner, if it has limits; None at the others.
        journal: what is asked for and how that ends is written there.
    """

    def __init__(
        self,
        gather: Callable[[object], Mapping[str, object]],
        model_owner: str,
        data_owner: str,
        account: Account | None,
        journal: Journal,
    ):
        self._gather, self._model_owner, self._data_owner = gather, model_owner, data_owner
        self._account, self._journal = account, journal
        self._limited = True

    @override
    def begin(self, asked: Amounts) -> None:
        self._journal.write("asked", by=self._data_owner, **asdict(asked))
        self._limited = self._decide(lambda account: account.check(asked))

    @override
    def take(self, asked: Amounts) -> None:
        if self._limited:
            self._decide(lambda account: account.count(asked))
        self._journal.write("part", **asdict(asked))

    def _decide(self, act: Callable[[Account], None]) -> bool:
        """Do as the model owner decides; returns whether it has limits."""
        verdict, own = None, None
        if self._account:
            try:
                act(self._account)
                verdict = GRANTED
            except LimitReached as refusal:
                verdict, own = refusal.limit, refusal
        found = self._gather(verdict)[self._model_owner]
        if found in (None, GRANTED):
            return found == GRANTED
        limit = found if isinstance(found, str) and found in LIMITED else FILE
        self._journal.write("refused", by=self._model_owner, limit=limit)
        raise own or LimitReached(_refusal(self._model_owner, limit), limit)


def _refusal(model_owner: str, limit: str) -> str:
    """What the others are told: the numbers are the model owner's."""
    if limit == FILE:
        return f"{model_owner} refuses this run: it cannot count what it gives away; see its own output"
    return (
        f"{model_owner} refuses this run: it would go beyond its limit cluster.limits.{limit}; ask for less, wait for "
        f"the next day (UTC), or ask {model_owner}"
    )


def make_allowance(runtime: Runtime, config: Config, party: str | None) -> Allowance:
    """What asks the model owner of a run.

    Args:
        runtime: of the run.
        config: of this party.
        party: of a cluster, which this process is; None for all of them.
    """
    if party is None or config.cluster is None:
        return Allowance()
    cluster = config.cluster
    account = Account(cluster.limits) if cluster.limits and party == cluster.model_owner else None
    return ClusterAllowance(runtime.gather, cluster.model_owner, cluster.data_owner, account, runtime.journal)
