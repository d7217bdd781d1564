"""Writes one Markdown report, with its figures, from files of records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secp_spu.bench.accuracy_tables import accuracy_tables, draw_accuracy
from secp_spu.bench.figures import draw_attention, draw_iterations, draw_networks, draw_operations, draw_optimizers
from secp_spu.bench.measure_batching import batching_tables
from secp_spu.bench.measure_embedding import embedding_tables
from secp_spu.bench.network_check import check_tables
from secp_spu.bench.network_model import network_tables
from secp_spu.bench.published import published_tables
from secp_spu.bench.records import Record
from secp_spu.bench.run_cost import run_cost_tables
from secp_spu.bench.tables import (
    Table,
    activation_tables,
    attention_tables,
    cosine_tables,
    iteration_tables,
    operation_tables,
    optimizer_tables,
)
from secp_spu.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "report.md"

FIGURE = re.compile(r"!\[((?:iteration|operations|attention|network)-[\w-]+|optimizers|accuracy)\]\(\1\.png\)")
"""A line of the report: the figures that it makes, by name."""

Tables = Callable[[Sequence[Record]], list[Table]]
Figures = Callable[[Sequence[Record]], dict[str, "Figure"]]

TITLE = "# What private tuning costs"

INTRODUCTION = f"""{TITLE}

Measured by `secp-spu bench` on one machine that runs all parties, with no network between them: bytes and sends are
exact, seconds are this machine's. 1 MB is 10^6 bytes. The offline phase needs no input and can run beforehand; it is
stated beside the online phase everywhere.
"""

MAKERS: tuple[tuple[Tables, Figures | None], ...] = (
    (published_tables, None),
    (iteration_tables, draw_iterations),
    (operation_tables, draw_operations),
    (attention_tables, draw_attention),
    (cosine_tables, None),
    (activation_tables, None),
    (batching_tables, None),
    (embedding_tables, None),
    (network_tables, draw_networks),
    (check_tables, None),
    (optimizer_tables, draw_optimizers),
    (run_cost_tables, None),
    (accuracy_tables, draw_accuracy),
)
"""What makes tables of all records, and figures; in the order of the report."""


def write_report(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write report.md and a PNG for every figure; returns their paths.

    Figures of the report that was there before, and not of this one, are removed.

    Raises: ConfigError without records, or for a folder that cannot be written.
    """
    if not records:
        raise ConfigError("--json: the files hold no records; run some secp-spu bench first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _figures(folder)
        written = list(_sections(records, folder))
        text = "\n".join([INTRODUCTION, *(section for _, section in written), _machines(records)])
        (folder / NAME).write_text(text, encoding="utf-8")
        for path in before - {path for path, _ in written}:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written: {error.strerror}") from error
    return [folder / NAME, *(path for path, _ in written if path)]


def _figures(folder: Path) -> set[Path]:
    """What a report that is there says it has made."""
    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    found = filter(None, map(FIGURE.fullmatch, lines)) if lines[:1] == [TITLE] else ()
    return {folder / f"{match[1]}.png" for match in found}


def _sections(records: Sequence[Record], folder: Path) -> Iterator[tuple[Path | None, str]]:
    """Tables and figures; of a figure its path too."""
    for tables, draw in MAKERS:
        for table in tables(records):
            yield None, table.markdown()
        for name, figure in draw(records).items() if draw else ():
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=130)
            yield path, f"![{name}]({path.name})\n"


def _machines(records: Sequence[Record]) -> str:
    machines = {tuple(record["machine"].items()) for record in records if "machine" in record}
    lines = [", ".join(f"{name} {value}" for name, value in machine) for machine in sorted(machines, key=str)]
    return "## Machines\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"
