"""`secp-spu bench ...`: the commands that measure; they parse and print, and leave everything else to `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="Measure what private tuning costs, and what the alternatives would.")

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="File for the records; what it holds already is not measured again.")
]
