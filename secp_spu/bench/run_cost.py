"""Evaluations that optimizers need, times what an evaluation costs: hours and bytes of whole runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from statistics import median

from secp_spu.bench.published import PAPER
from secp_spu.bench.records import Case, Record
from secp_spu.bench.tables import Table, groups, of_bench, setting_name, workload
from secp_spu.errors import ConfigError

REFERENCE = "cma"
"""Whose best validation loss, at its full budget, is what all have to reach."""

PAPER_EVALUATIONS = 8_000
"""The budget of black-box tuning, Sun et al. 2022, which the paper follows."""


def run_cost_cases(records: Sequence[Record]) -> Iterator[Case]:
    """For every optimizer and task, on every workload that forward-only tuning was measured on.

    Args:
        records: of `bench optimizers` and `bench iteration`.
    Raises: ConfigError without CMA-ES' records, or without an iteration of forward-only tuning.
    """
    runs = of_bench(records, "optimizers")
    evaluations = [r for r in of_bench(records, "iteration") if r["variant"].startswith("fot")]
    if not any(run["variant"] == REFERENCE for run in runs):
        raise ConfigError(f"--optimizers: no records of {REFERENCE}, which the others are held against")
    if not evaluations:
        raise ConfigError(
            "--iteration: no records of forward-only tuning (fot, fot-rfa, fot-fourier), whose evaluations have a cost"
        )
    for (task, optimizer), group in groups(runs, lambda r: (r["task"], r["variant"])):
        references = {run["seed"]: run for run in runs if (run["task"], run["variant"]) == (task, REFERENCE)}
        if any(run["seed"] not in references for run in group):
            raise ConfigError(f"--optimizers: {optimizer} has a seed on {task} that {REFERENCE} has not")
        needed = [_needed(run, references[run["seed"]]) for run in group]
        for cost in evaluations:
            key = {"bench": "run-cost", "variant": optimizer, "task": task, "method": cost["variant"]}
            key |= {k: cost[k] for k in ("model", "seq_len", "batch", "activation", "layers")}
            key |= {k: cost[k] for k in ("protocol", "parties", "correlations")}
            yield Case(key, partial(_cost_of_run, needed, cost))


def _needed(run: Record, reference: Record) -> float:
    """Evaluations until a run's validation loss is what the reference ends with; infinite if never."""
    wanted = reference["validation_loss"][-1]
    pairs = zip(run["evaluations"], run["validation_loss"], strict=True)
    return next((float(evaluations) for evaluations, loss in pairs if loss <= wanted), float("inf"))


def _cost_of_run(needed: Sequence[float], cost: Record) -> Record:
    """Median over seeds; null where most seeds never get there."""
    middle = median(needed)
    reached = middle != float("inf")
    record: Record = {"seeds": len(needed), "reached_by": sum(n != float("inf") for n in needed)}
    record["evaluations"] = middle if reached else None
    for phase in ("offline", "online"):
        figures = cost[phase]
        record[phase] = {k: middle * figures[k] if reached else None for k in ("bytes", "bytes_total", "seconds")}
    return record


def run_cost_tables(records: Iterable[Record]) -> list[Table]:
    """Hours and TB to what CMA-ES reaches, a table for each workload and task."""
    found = groups(of_bench(records, "run-cost"), lambda r: (r["method"], workload(r), setting_name(r), r["task"]))
    return [_run_cost_table(key[:3], group) for key, group in found]


def _run_cost_table(key: tuple[str, str, str], records: Sequence[Record]) -> Table:
    method, work, setting = key
    rows = [[record["variant"], f"{record['reached_by']} of {record['seeds']}", *_totals(record)] for record in records]
    seconds, gigabytes = PAPER["fot-rfa"]
    hours, terabytes = PAPER_EVALUATIONS * seconds / 3600, PAPER_EVALUATIONS * gigabytes / 1000
    rows.append(["the paper's budget", "", f"{PAPER_EVALUATIONS:,}", "", f"{hours:,.1f}", "", f"{terabytes:,.2f}"])
    columns = ["optimizer", "seeds that reach it", "evaluations", "offline h", "hours", "offline TB", "TB of all"]
    note = (
        f"Evaluations of a prompt on the training texts until its validation loss is CMA-ES' at its full budget on the "
        f"same seed of {records[0]['task']} (median), times one evaluation by {method} of {work}. Hours and TB are of "
        "offline and online phase together. The last row is the paper's figures for RoBERTa-large, 512 tokens."
    )
    return Table(f"Whole runs on {records[0]['task']}, {method} of {work}: {setting}", columns, rows, [note])


def _totals(record: Record) -> list[str]:
    if record["evaluations"] is None:
        return ["not reached", "", "", "", ""]
    offline, online = record["offline"], record["online"]
    hours = [offline["seconds"] / 3600, (offline["seconds"] + online["seconds"]) / 3600]
    terabytes = [offline["bytes_total"] / 1e12, (offline["bytes_total"] + online["bytes_total"]) / 1e12]
    cells = [f"{record['evaluations']:,.0f}", *(f"{value:,.2f}" for value in hours)]
    return [*cells, *(f"{value:,.3f}" for value in terabytes)]
