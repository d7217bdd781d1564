"""What all commands show in a terminal: bars that say how far they are, and lines that stay."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from secp_spu.tuning import Progress

QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no summary, only errors.")]


class Interrupted(Exception):
    """Ctrl-C; what was written can be gone on with."""


class TerminalProgress(Progress):
    """Bars while standard output is a terminal; the lines always."""

    def __init__(self, console: Console):
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._console = console
        self._bars = Bars(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task: TaskID | None = None
        self._bars.start()

    def stage(self, name: str, steps: int) -> None:
        """See `Progress.stage`."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=steps)

    def step(self) -> None:
        """See `Progress.step`."""
        if self._task is not None:
            self._bars.advance(self._task)

    def line(self, text: str) -> None:
        """See `Progress.line`."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """See `Progress.close`."""
        self._bars.stop()
