"""Measures cases and keeps their records in a JSON file, written after each, so that a bench resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from secp_spu.bench.schema import fault
from secp_spu.errors import ConfigError
from secp_spu.files import write_whole
from secp_spu.progress import Progress
from secp_spu.runtime import available_bytes

Record: TypeAlias = dict[str, Any]  # Any: what a key holds depends on the bench; schema.py says it.
"""Key and results of one measurement."""

TAKE_ANOTHER = "take a file that `secp-spu bench` wrote, or a new name"


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        key: what decides its result: `bench`, `variant`, `protocol`, `parties`, sizes and choices. A record of the same
            key is the same measurement.
        measure: makes the rest of the record.
        steps: how many it reports to the progress it was made with.
        memory_bytes: about what it takes of this machine's memory, where sizes decide it.
    """

    key: Mapping[str, object]
    measure: Callable[[], Record]
    steps: int = 0
    memory_bytes: int = 0

    def __str__(self) -> str:
        shown = (str(value) for name, value in self.key.items() if name not in ("parties", "correlations"))
        return ", ".join(shown)


class RecordFile:
    """The records of a bench, in a file or in memory alone.

    Args:
        path: of a JSON list of records; it is read if it is there, and written after every `add`.
    Raises: ConfigError if the file is no such list, or its folder cannot be written.
    """

    def __init__(self, path: Path | None = None):
        if path and path.is_dir():
            raise ConfigError(f"--json {path}: is a folder; name a file in it, such as {path / 'records.json'}")
        self._path = path
        self.records = read_records(path) if path and path.exists() else []
        if path:
            self._save(path)

    def find(self, key: Mapping[str, object]) -> Record | None:
        """The record of a measurement that was made already."""
        return next((record for record in self.records if key.items() <= record.items()), None)

    def add(self, record: Record) -> None:
        """Take a record, and write all of them."""
        self.records.append(record)
        if self._path:
            self._save(self._path)

    def _save(self, path: Path) -> None:
        try:
            write_whole(path, (json.dumps(self.records, indent=1) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"--json {path} cannot be written: {error.strerror}") from error


def read_records(path: Path) -> list[Record]:
    """Read a file of records.

    Raises: ConfigError if it is missing or holds something else, or records that lack what tables are made of.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as bench records: {error}") from error
    if not isinstance(records, list):
        raise ConfigError(f"{path} is no list of bench records: {TAKE_ANOTHER}")
    for number, record in enumerate(records, 1):
        if wrong := fault(record):
            raise ConfigError(f"{path} is no list of bench records: record {number}: {wrong}; {TAKE_ANOTHER}")
    return records


def measure_all(cases: Iterable[Case], file: RecordFile, progress: Progress) -> list[Record]:
    """Measure what the file has no record of yet; returns the records of all cases, in order.

    Raises: ConfigError, before anything is measured, for a case that takes more memory than is free.
    """
    wanted, found = [], []
    for case in cases:
        if file.find(case.key) is None:
            _check_memory(case)
        wanted.append(case)
    for number, case in enumerate(wanted, 1):
        record = file.find(case.key)
        if record is None:
            progress.stage(f"{number} of {len(wanted)}: {case}", case.steps)
            record = {**case.key, **case.measure(), "machine": machine()}
            file.add(record)
        found.append(record)
    return found


def _check_memory(case: Case) -> None:
    free = available_bytes()
    if case.memory_bytes > free:
        raise ConfigError(
            f"{case}: takes about {case.memory_bytes // 10**9:,} GB of memory, and {free / 1e9:,.1f} GB are free: "
            "ask for smaller sizes"
        )


def machine() -> Record:
    """Where and with what a record was measured."""
    return {"cores": os.cpu_count(), "secp_spu": version("secp-spu"), "spu": version("spu"), "jax": version("jax")}
