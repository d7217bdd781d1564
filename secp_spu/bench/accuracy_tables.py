"""The table and the figure of accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from secp_spu.bench.measure_accuracy import ADAPTED, BY_GRADIENT, FEW_SHOT, PLAINTEXT_OF, SOURCE
from secp_spu.bench.records import Record
from secp_spu.bench.tables import Table, groups, mean_and_deviation, of_bench
from secp_spu.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES: dict[str, str] = {
    "untuned": "softmax, initial prompt",
    "untuned-adapted": "adapted, initial prompt",
    "probe": "linear probe",
    "gradient-prompt": "gradient prompt tuning",
    "fine-tuning": "fine-tuning",
    "fot": "FoT, softmax",
    "fot-transfer": f"FoT, softmax, from a prompt for {SOURCE}",
    "fot-adapted": "FoT, adapted",
    "fot-secure": "FoT, adapted, under ABY3",
    "momentum-adapted": "momentum, adapted",
    "momentum-secure": "momentum, adapted, under ABY3",
    "adam-adapted": "Adam, adapted",
    "adam-secure": "Adam, adapted, under ABY3",
}
"""Names of the rows, in their order."""

TITLE = "Accuracy with 16 examples a class"


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: a key of NAMES.
        generations: of tuning; 0 where there are none.
        test_texts: how many the accuracies are of; None for all.
        found: accuracy in percent by task and seed.
    """

    name: str
    generations: int
    test_texts: int | None
    found: dict[str, dict[int, float]]

    def describe(self) -> str:
        """Its name, generations or steps, and test texts."""
        unit = "step" if self.name in BY_GRADIENT else "generation"
        generations = [f"{self.generations} {unit}{'s' if self.generations > 1 else ''}"] if self.generations else []
        texts = [f"{self.test_texts} texts"] if self.test_texts else []
        return ", ".join([NAMES[self.name], *generations, *texts])


def accuracy_tables(records: Iterable[Record]) -> list[Table]:
    """Accuracy by method and task, a table for each adapted model; and what MPC changes.

    Softmax stands beside the adapted models that were tested on as many texts, or else in a table of its own.
    """
    by_model = dict(groups(of_bench(records, "accuracy"), lambda record: record["model"]))
    softmax = by_model.pop("softmax", [])
    counts = {model: {record.get("test_texts") for record in found} for model, found in by_model.items()}
    alone = [record for record in softmax if record.get("test_texts") not in set().union(*counts.values())]
    tables = [_table(TITLE, _rows(alone))] if alone else []
    for model, found in by_model.items():
        beside = [record for record in softmax if record.get("test_texts") in counts[model]]
        tables += [_table(f"{TITLE}; adapted: {model}", _rows([*beside, *found])), *_secure_table(found)]
    return tables


def _table(title: str, rows: Sequence[Row]) -> Table:
    tasks = [task for task in FEW_SHOT if any(task in row.found for row in rows)]
    body = []
    for row in rows:
        cells = [list(row.found.get(task, {}).values()) for task in tasks]
        mean = f"{fmean(fmean(cell) for cell in cells):.1f}" if all(cells) else ""
        body.append([row.describe(), *map(_cell, cells), mean])
    note = (
        "Test accuracy in percent, mean and standard deviation over seeds, in brackets how many; in plaintext where a "
        "row does not say ABY3. Nothing of a run was chosen by a test set. The initial prompt is of random words."
    )
    return Table(title, ["method", *tasks, "mean"], body, [note])


def _cell(values: Sequence[float]) -> str:
    return f"{mean_and_deviation(values, 1)} ({len(values)})" if values else ""


def _rows(records: Sequence[Record]) -> list[Row]:
    rows: dict[tuple[str, int, int | None], Row] = {}

    def add(name: str, generations: int, record: Record, value: float) -> None:
        key = name, generations, record.get("test_texts")
        row = rows.setdefault(key, Row(*key, {}))
        row.found.setdefault(record["task"], {})[record["seed"]] = 100 * value

    for record in records:
        add(record["variant"], record["generations"], record, record["accuracy"])
        for name, method in (("untuned", "fot"), ("untuned-adapted", "fot-adapted")):
            if record["variant"] == method and "test_texts" not in record:
                add(name, 0, record, record["untuned"])
    order = list(NAMES)
    return sorted(rows.values(), key=lambda row: (order.index(row.name), row.generations, row.test_texts or 0))


def _secure_table(records: Sequence[Record]) -> list[Table]:
    """Every run under MPC beside the same run in plaintext."""
    rows = []
    for secure in records:
        if secure["variant"] not in PLAINTEXT_OF:
            continue
        twin = PLAINTEXT_OF[secure["variant"]]
        plain = next((r for r in records if r["variant"] == twin and _run(r) == _run(secure)), None)
        if plain is not None:
            cost = sum(secure[phase]["bytes_total"] for phase in ("offline", "online")) / 1e9
            seconds = sum(secure[phase]["seconds"] for phase in ("offline", "online"))
            texts = str(secure.get("test_texts", "all"))
            optimizer = BY_GRADIENT.get(secure["variant"], "cma")
            names = [secure["task"], optimizer, str(secure["seed"]), str(secure["generations"]), texts]
            losses = [f"{run['validation_loss']:.4f}" for run in (plain, secure)]
            accuracies = [f"{100 * run['accuracy']:.1f}" for run in (plain, secure)]
            rows.append([*names, *losses, *accuracies, f"{cost:,.0f}", f"{seconds:,.0f}"])
    columns = ["task", "optimizer", "seed", "generations", "test texts", "validation loss, plaintext", "ABY3"]
    columns += ["accuracy, plaintext", "ABY3", "GB", "seconds"]
    note = (
        "The same seeds, hence the same texts, first candidates and initial prompt. Bytes of all parties, those of the "
        "tests too."
    )
    return [Table("Tuning under MPC and in plaintext", columns, rows, [note])] if rows else []


def _run(record: Record) -> tuple[object, ...]:
    """What two runs have in common that differ by protocol alone."""
    return tuple(record.get(key) for key in ("task", "seed", "generations", "test_texts"))


def draw_accuracy(records: Iterable[Record]) -> dict[str, Figure]:
    """Accuracy of every method, a panel for each task."""
    of_accuracy = of_bench(records, "accuracy")
    whole = [record for record in of_accuracy if "test_texts" not in record]  # others are of another model too
    rows = [row for row in _rows(whole) if row.name != "fot-transfer"]
    tasks = [task for task in FEW_SHOT if any(task in row.found for row in rows)]
    if not rows:
        return {}
    figure = new_figure(9.5, 1 + 0.32 * len(rows))
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for place, row in enumerate(rows):
            values = list(row.found.get(task, {}).values())
            colour = "#3d6fb4" if row.name in ADAPTED | {"untuned-adapted"} else "#9aa5b1"
            axes.scatter(values, np.full(len(values), place), s=9, color=colour, alpha=0.5, linewidths=0)
            if values:
                axes.scatter([fmean(values)], [place], s=42, marker="|", color=colour, linewidths=2)
        axes.set(title=task, xlabel="accuracy, %")
        axes.grid(axis="x", color="#e4e7eb", linewidth=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    panels[0].set_yticks(range(len(rows)), [row.describe() for row in rows])
    panels[0].invert_yaxis()
    return {"accuracy": figure}
