"""What a candidate costs by how many go through the model in one pass, and the memory that the pass takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from secp_spu.bench.measure_iteration import Iteration
from secp_spu.bench.mpc_setting import OWNER
from secp_spu.bench.records import Case, Record
from secp_spu.bench.scaling import FIGURES
from secp_spu.bench.tables import Table, cost_cells, groups, of_bench, setting_name, workload
from secp_spu.inference import pass_bytes
from secp_spu.progress import Progress
from secp_spu.runtime import Ledger, PlaintextRuntime, Runtime
from secp_spu.runtime.heap import give_back
from secp_spu.trees import Floats


def batching_cases(iteration: Iteration, candidates: Sequence[int], progress: Progress) -> Iterator[Case]:
    """A forward pass of some candidates before all texts, for several numbers of candidates.

    Args:
        iteration: gives model, texts and setting.
        candidates: of one pass.
        progress: told of every layer.
    """
    for count in candidates:
        key = {"bench": "batching", **iteration.key, "layers": iteration.layers, "candidates": count}
        # A pass to compile, and one to measure.
        measure = partial(_measure, iteration, count, progress)
        yield Case(key, measure, 2 * iteration.layers, iteration.memory_bytes(count))


def _measure(iteration: Iteration, candidates: int, progress: Progress) -> Record:
    """Costs of one pass; `peak_bytes` of a party in it, and `estimated_bytes` by which the driver chooses."""
    with PlaintextRuntime() as runtime:
        expected = _logits(iteration, candidates, runtime)
    with iteration.setting.runtime() as runtime:
        model, prompts, batch = iteration.shared(runtime, progress.step, candidates)
        runtime.free(model.logits(prompts, batch))
        runtime.ledger.restore(Ledger(runtime.parties).state())
        with peak_memory() as peak:
            logits = model.logits(prompts, batch)
        costs, found = runtime.ledger.report(), runtime.open_to(OWNER, logits).value
    estimated = pass_bytes(iteration.config, candidates * iteration.batch, iteration.seq_len)
    memory = {"peak_bytes": peak.bytes // iteration.setting.parties, "estimated_bytes": estimated}
    return {**costs, **memory, "max_abs_error": float(np.abs(found - expected).max())}


def _logits(iteration: Iteration, candidates: int, runtime: Runtime) -> Floats:
    model, prompts, batch = iteration.shared(runtime, lambda: None, candidates)
    logits: Floats = runtime.open_to(OWNER, model.logits(prompts, batch)).value
    return logits


def batching_tables(records: Iterable[Record]) -> list[Table]:
    """A candidate's costs by how many go through the model together."""
    found = groups(of_bench(records, "batching"), lambda r: (workload(r), setting_name(r)))
    return [_table(key, group) for key, group in found]


def _table(key: tuple[str, str], records: Sequence[Record]) -> Table:
    rows = []
    for record in sorted(records, key=lambda r: r["candidates"]):
        count = record["candidates"]
        of_one = [{name: record[phase][name] / count for name in FIGURES} for phase in ("online", "offline")]
        memory = (f"{record[name] / 1e6:,.0f}" for name in ("peak_bytes", "estimated_bytes"))
        cells = (cell for cost in of_one for cell in cost_cells(cost))
        rows.append([str(count), *cells, *memory, f"{record['max_abs_error']:.1e}"])
    columns = ["candidates a pass", "online MB", "online sends", "online s", "offline MB", "offline sends", "offline s"]
    columns += ["peak MB", "estimated MB", "max error"]
    note = (
        "MB, sends and s are of one candidate; MB and sends the mean over the parties. Peak: by how much a party's "
        "memory grew in the pass; estimated: what `tuning.candidates_per_call` is chosen by."
    )
    return Table(f"Candidates a pass, {': '.join(key)}", columns, rows, [note])


@dataclass
class Peak:
    """Bytes by which this process's resident memory has grown at its peak."""

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak of this process's resident memory inside, above what it had before (Linux)."""
    give_back()  # or what was freed before would be filled first, and not be seen
    peak, before = Peak(), psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM to the present size: man 5 proc
    yield peak
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak.bytes = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
