"""Reads SPU's log after every run: what the run cost, and whether it opened what the audit proved and nothing else.

There is no other way to SPU's counters (SPU 0.9.5). The log is the process's own, so that runs of several runtimes take
turns.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from spu import libspu

from secp_spu.runtime.ledger import Cost

_ROW = re.compile(
    r"- pphlo\.(?:custom_call: )?(\S+), executed (\d+) times, duration (\S+)s, "
    r"send bytes (\d+) recv bytes \d+, send actions (\d+),"
)
_LINK = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+),")
_ANNOUNCED = "Some secret values are revealed."
"""What SPU warns of at every `spu.reveal` of a secret."""

_WARNING = re.compile(r"^.*\[(?:warning|error|critical)\] (?:\[[^\]]*\] )?(.*[Rr]eveal.*)$", re.MULTILINE)


class ProfileError(RuntimeError):
    """SPU's log does not have the lines of a run, or its rows do not add up to its total."""


class UnprovenOpening(RuntimeError):
    """SPU opened more, or less, than the audit had proven masked; the message names the program."""


class ProfileLog:
    """SPU's log of this process.

    It is SPU's logger only while a runtime uses it. SPU cannot say what its logger was before, so what is put back is
    the logger that SPU begins with, on the console; a program that had set up another does so again afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._reader: TextIO

    def acquire(self) -> None:
        """Take over SPU's logger, unless another runtime has."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._take_over()

    def release(self) -> None:
        """Put SPU's logger back once nobody uses it; SPU must be at rest."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                options = libspu.logging.LogOptions()
                options.system_log_path = os.devnull  # else SPU makes a file in the working directory
                libspu.logging.setup_logging(options)
                self._reader.close()

    def _take_over(self) -> None:
        handle, path = tempfile.mkstemp(prefix="secp_spu-", suffix=".log")
        os.close(handle)
        options = libspu.logging.LogOptions()
        options.enable_console_logger = False
        options.system_log_path = path
        options.max_log_file_size = 2**62
        libspu.logging.setup_logging(options)
        # The file stays open in SPU; without a name it goes away with the process, however that ends.
        self._reader = Path(path).open("r+")  # noqa: SIM115 - `release` closes it
        Path(path).unlink()

    @contextmanager
    def run(
        self, program: str, parties: int, openings: int, rows: list[tuple[str, Cost]], *, parts: int = 1
    ) -> Iterator[None]:
        """Append the (operation, cost) rows of the program that runs inside, summed over `parties`.

        Args:
            program: its name, for messages.
            parties: how many of them log here.
            openings: how many the audit has proven masked, each of which every party executes once.
            rows: to append to.
            parts: how many programs for SPU it is cut into, see `chain.parts_of`.
        Raises: UnprovenOpening, after the run; ProfileError.
        """
        with self._lock:
            self._take()  # what a run that failed has left
            yield
            text = self._take()
        check_openings(text, program, parties, openings)
        rows += parse_profile(text, parties, parts)

    def _take(self) -> str:
        self._reader.seek(0)
        text = self._reader.read()
        os.truncate(self._reader.fileno(), 0)
        return text


@cache
def profile_log() -> ProfileLog:
    """The one log of this process."""
    return ProfileLog()


def check_openings(text: str, program: str, parties: int, openings: int) -> None:
    """Hold what SPU says that it opened against what was proven: its profile, its warnings, and no other warning.

    Raises: UnprovenOpening.
    """
    executed = sum(int(times) for operation, times, *_ in _ROW.findall(text) if operation == "spu.reveal")
    warnings = _WARNING.findall(text)
    announced = sum(_ANNOUNCED in warning for warning in warnings)
    other = next((warning for warning in warnings if _ANNOUNCED not in warning), None)
    if other is not None:
        raise UnprovenOpening(f"{program}: SPU warns of an opening that the audit does not know: {other}")
    if not executed == announced == parties * openings:
        raise UnprovenOpening(
            f"{program}: the audit proved {openings} openings of each of {parties} parties, but SPU counts {executed} "
            f"and warns of {announced} in all"
        )


def parse_profile(text: str, parties: int, parts: int = 1) -> list[tuple[str, Cost]]:
    """The rows of one run from the log of all its parties, costs summed over them, seconds averaged.

    Raises: ProfileError if a party's lines are missing or the rows do not add up to the link's total.
    """
    links = _LINK.findall(text)
    if len(links) != parties * parts:
        raise ProfileError(f"SPU's log has {len(links)} totals, not one of each of {parts} parts at {parties} parties")
    rows = [(op, Cost(int(sent), int(sends), float(s) / parties)) for op, _, s, sent, sends in _ROW.findall(text)]
    by_rows = sum(cost.bytes_total for _, cost in rows), sum(cost.sends_total for _, cost in rows)
    by_links = sum(int(sent) for sent, _ in links), sum(int(sends) for _, sends in links)
    if by_rows != by_links:
        raise ProfileError(f"operations sent {by_rows} (bytes, messages), but the links {by_links}")
    return [(op, cost) for op, cost in rows if op != "free"]
