"""Writes a finished run's report.json and its two figures."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from secp_spu.config import Config
from secp_spu.drawing import new_figure
from secp_spu.files import write_whole
from secp_spu.runtime.ledger import LedgerReport
from secp_spu.tuning.inputs import Split
from secp_spu.tuning.record import Generation, RunRecord, Usage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT = "report.json"
PHASE_COLOURS = {"setup": "#9aa5b1", "offline": "#e0a458", "online": "#3d6fb4"}
LARGEST_OPERATIONS = 8


class BatchingReport(TypedDict):
    """What went through the model in one pass: candidates, and texts of each split."""

    candidates: int
    texts: dict[Split, int]


class DriverReport(TypedDict):
    """What the driver says of a run."""

    batching: BatchingReport
    ledger: LedgerReport


class RunReport(DriverReport):
    """The content of report.json."""

    accuracy_before: float
    accuracy_after: float
    loss: list[float | None]
    validation_loss: list[float | None]
    best_validation_loss: float
    implausible_candidates: int
    notes: list[str]
    stopped: str
    optimizer: str
    forward_calls: int
    seconds: float
    protocol: str
    parties: int
    correlations: str
    seed: int


def write_report(folder: Path, config: Config, record: RunRecord, run: DriverReport) -> None:
    """Write report.json, loss.png and costs.png for their owner's eyes."""
    report = build_report(config, record, run)
    write_whole(folder / REPORT, (json.dumps(report, indent=2) + "\n").encode(), secret=True)
    for name, figure in (("loss.png", _draw_loss(record)), ("costs.png", _draw_costs(report))):
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=120)
        write_whole(folder / name, drawn.getvalue(), secret=True)


def build_report(config: Config, record: RunRecord, run: DriverReport) -> RunReport:
    """The content of report.json, of a run that has finished."""
    if record.accuracy_before is None or record.accuracy_after is None:
        raise ValueError("record is of a run that has not finished: it has no accuracies")
    return {
        "accuracy_before": record.accuracy_before,
        "accuracy_after": record.accuracy_after,
        "loss": [_finite(min(generation.losses)) for generation in record.generations],
        "validation_loss": [_finite(generation.validation_loss) for generation in record.generations],
        "best_validation_loss": record.selected[1],
        "implausible_candidates": sum(len(generation.implausible) for generation in record.generations),
        "notes": [note for generation in record.generations for note in generation.notes],
        "stopped": record.stopped,
        "optimizer": config.tuning.optimizer,
        "forward_calls": record.usage.forward_calls,
        "seconds": round(record.usage.seconds, 3),
        "protocol": config.protocol,
        "parties": 1 if config.protocol == "plaintext" else config.parties,
        "correlations": config.correlations,
        "seed": record.seed,
        **run,
    }


def _finite(loss: float | None) -> float | None:
    """JSON has no infinity."""
    return loss if loss is not None and math.isfinite(loss) else None


def describe_generation(record: RunRecord, before: Usage) -> str:
    """One line on the last generation: losses, evaluations, and what it took."""
    last = record.generations[-1]
    sent_bytes = _total(record.usage, "bytes_total") - _total(before, "bytes_total")
    sends = _total(record.usage, "sends_total") - _total(before, "sends_total")
    return (
        f"generation {len(record.generations):3d}: {_losses(record)}, {record.usage.forward_calls} evaluations, "
        f"{_sent(sent_bytes, sends)}"
        f"{record.usage.seconds - before.seconds:.1f} s{_what_was_not_taken(last)}"
    )


def _losses(record: RunRecord) -> str:
    """Of the last generation; a gradient's step is between its two losses."""
    last = record.generations[-1]
    before, after = (" before the step", " after it") if _is_step(last) else ("", "")
    loss = f"loss {min(last.losses):.3f}{before}"
    if last.validation_loss is None:
        return loss
    return f"{loss}, validation {last.validation_loss:.3f}{after} ({_best(record)})"


def _is_step(generation: Generation) -> bool:
    """Whether it has one prompt, which a gradient moves."""
    return len(generation.losses) == 1


def _sent(sent_bytes: int, sends: int) -> str:
    """What all parties sent; in plaintext nothing."""
    return f"{sent_bytes / 1e6:,.0f} MB and {sends:,} sends of all parties, " if sends else ""


def _best(record: RunRecord) -> str:
    if record.pending and record.pending_loss == record.generations[-1].validation_loss:
        return "new best, to be evaluated again"
    return f"best {record.best_validation_loss:.3f}" if record.best else "no best yet"


def _what_was_not_taken(last: Generation) -> str:
    notes = list(last.notes)
    if last.implausible:
        notes.append(f"implausible logits of {len(last.implausible)} of {len(last.losses)} candidates were not taken")
    return "".join(f"; {note}" for note in notes)


def _total(usage: Usage, key: Literal["bytes_total", "sends_total"]) -> int:
    return sum(phase["total"][key] for phase in usage.ledger.values())


def _draw_loss(record: RunRecord) -> Figure:
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    steps = range(1, len(record.generations) + 1)
    losses = [generation.losses for generation in record.generations]
    are_steps = all(map(_is_step, record.generations))
    if not are_steps:
        axes.fill_between(steps, [min(x) for x in losses], [max(x) for x in losses], alpha=0.2, label="all candidates")
    names = ("training, before the step", "validation, after it") if are_steps else ("best candidate", "validation")
    axes.plot(steps, [min(x) for x in losses], marker="o", markersize=3, label=names[0])
    found = [(step, _finite(g.validation_loss)) for step, g in zip(steps, record.generations, strict=True)]
    validated = [(step, loss) for step, loss in found if loss is not None]
    axes.plot(*zip(*validated, strict=True), linestyle="--", marker="s", markersize=3, label=names[1])
    axes.set(xlabel="generation", ylabel="loss", title=f"Accuracy {_accuracies(record)} on unseen texts")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)
    _tidy(axes)
    return figure


def _accuracies(record: RunRecord) -> str:
    return f"{record.accuracy_before:.1%} → {record.accuracy_after:.1%}"


def _draw_costs(report: RunReport) -> Figure:
    figure = new_figure(8, 3.6)
    phases, operations = figure.subplots(1, 2, width_ratios=[2, 3])
    names = list(PHASE_COLOURS)
    ledger = report["ledger"]
    bars = phases.bar(names, [ledger[p]["bytes"] / 1e6 for p in names], color=list(PHASE_COLOURS.values()))
    phases.bar_label(bars, [f"{ledger[p]['seconds']:.0f} s" for p in names], padding=2)
    phases.set(ylabel="MB sent, mean over the parties", title="By phase, with seconds")
    phases.margins(y=0.12)
    rows = [(phase, op, cost["bytes"] / 1e6) for phase in names for op, cost in ledger[phase]["operations"].items()]
    rows = sorted(rows, key=lambda row: row[2])[-LARGEST_OPERATIONS:]
    colours = [PHASE_COLOURS[phase] for phase, _, _ in rows]
    operations.barh([f"{op} ({phase})" for phase, op, _ in rows], [mb for *_, mb in rows], color=colours)
    operations.set(xlabel="MB sent, mean over the parties", title="Costliest operations")
    for axes in (phases, operations):
        _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
