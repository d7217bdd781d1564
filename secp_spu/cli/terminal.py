"""What all commands show in a terminal: bars that say how far they are, and lines that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from typing_extensions import override

from secp_spu.config import Config
from secp_spu.progress import Progress
from secp_spu.runtime import Runtime
from secp_spu.runtime.ledger import LedgerReport
from secp_spu.tuning import join_cluster, make_runtime
from secp_spu.tuning.agreement import Purpose

ConfigOption = Annotated[Path, typer.Option("--config", help="YAML file; see configs/.", show_default=False)]
SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Overrides a key; can be repeated.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no summary, only errors.")]


OPTIONS = {
    **{name: f"--{name}" for name in ("activation", "corpus", "model", "out", "rate", "resume")},
    **{name: f"--{name.replace('_', '-')}" for name in ("batch_tokens", "max_tokens", "prompt_tokens")},
    "settings": "--set",
    "tune(resume=True)": "secp-spu tune --resume",
}
"""What messages of the package call arguments of the Python API, and what they are on the command line."""


def with_options(message: str) -> str:
    """A message of the package in the terms of the command line: options where it names arguments."""
    for argument, option in OPTIONS.items():
        message = message.replace(f"`{argument}`", option)
    return message


def help_without_command(context: typer.Context) -> None:
    """Print what commands there are, where none is given."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


class Interrupted(Exception):
    """Ctrl-C; the message says what is left."""


def start_runtime(console: Console, config: Config, party: str | None, purpose: Purpose) -> Runtime:
    """The runtime of one party of a cluster, or without a party of all of them here; says so where that takes long."""
    if config.cluster and bool(party) == bool(config.cluster.addresses):
        console.print(f"starting SecretFlow as {party}, waiting for the others" if party else "starting SecretFlow")
    return join_cluster(config, party, purpose) if party else make_runtime(config)


def show_costs(console: Console, ledger: LedgerReport) -> None:
    """Print what `Ledger.report` says, by phase; nothing of a run in plaintext, which sends nothing."""
    if not any(cost["sends"] for cost in ledger.values()):
        return
    table = Table("phase", "MB a party", "MB in all", "sends a party", "seconds", title="What it cost")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in ("setup", "offline", "online"):
        cost = ledger[name]
        row = cost["bytes"] / 1e6, cost["bytes_total"] / 1e6, cost["sends"], cost["seconds"]
        table.add_row(name, *(f"{value:,.1f}" for value in row[:2]), f"{row[2]:,.0f}", f"{row[3]:.1f}")
    console.print(table)


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

    @override
    def stage(self, name: str, steps: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=steps)

    @override
    def step(self) -> None:
        if self._task is not None:
            self._bars.advance(self._task)

    @override
    def line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @override
    def close(self) -> None:
        self._bars.stop()
