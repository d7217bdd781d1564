"""The processes that Ray starts for this one, which Ray itself does not always end."""

from __future__ import annotations

import os
import uuid

import psutil

_VARIABLE = "SECP_SPU_RAY"


def mark_ray_processes() -> None:
    """Put a mark into the environment of everything that is started from now on."""
    os.environ[_VARIABLE] = uuid.uuid4().hex


def ray_was_started() -> bool:
    """Whether this process has marked others."""
    return _VARIABLE in os.environ


def end_ray_processes() -> None:
    """Kill every process with the mark but this one, which must have left Ray or end now: it cannot go on without."""
    mark = os.environ.get(_VARIABLE)
    found = [process for process in psutil.process_iter() if mark and _has(process, mark)]
    for process in found:
        try:
            process.kill()
        except psutil.Error:
            continue  # it ended on its own


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and bool(process.environ().get(_VARIABLE) == mark)
    except (psutil.Error, OSError):
        return False  # another user's, or gone
