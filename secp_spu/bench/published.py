"""Figures that others have published, and what stands in the way of comparing them with ours."""

from __future__ import annotations

from collections.abc import Iterable

from secp_spu.bench.records import Record
from secp_spu.bench.tables import METHODS, Table, of_bench, setting_name

PAPER: dict[str, tuple[float, float]] = {
    "sft": (651.6, 970.7),
    "prompt": (882.1, 1116.2),
    "fot": (174.1, 205.4),
    "fot-rfa": (55.2, 56.5),
}
"""Seconds and GB of an iteration of RoBERTa-large, 512 tokens, by method: SecP-Tuning, arXiv 2506.15307 (CrypTen, three
servers with an A100 each, LAN)."""

PUMA: dict[str, tuple[int, float, float]] = {
    "bert-base": (128, 33.913, 10.773),
    "bert-large": (128, 73.720, 27.246),
}
"""Tokens, seconds and GB of a forward pass: PUMA, arXiv 2307.12533 (SPU, ABY3, three servers of 32 cores, 5 Gbps, 1 ms
round trip)."""


def published_tables(records: Iterable[Record]) -> list[Table]:
    """Our figures beside published ones of the same shape; none where we have no such record."""
    records = of_bench(records, "iteration")
    return [*_paper_table(records), *_puma_table(records)]


def _paper_table(records: list[Record]) -> list[Table]:
    ours = [r for r in records if r["model"] == "roberta-large" and r["seq_len"] == 512 and r["batch"] == 1]
    if not ours:
        return []
    rows = [
        [f"paper: {method}", "", *_figures(0, seconds, gigabytes)] for method, (seconds, gigabytes) in PAPER.items()
    ]
    note = (
        "The paper ran CrypTen on three servers with an A100 each, linked by 3 Gbps and 0.8 ms; it does not say if "
        "GB are of one party or of all. Ours are of all parties on the cores of one machine, with no network between "
        "them, so seconds compare among ours only, and bytes with the paper's but for that question. The offline phase "
        "is of correlations that we make; what the paper's assistant sends ahead of time is not in its figures."
    )
    return [_table("RoBERTa-large, 512 tokens: one iteration, ours and the paper's", ours, rows, note)]


def _puma_table(records: list[Record]) -> list[Table]:
    ours = [r for r in records if r["model"] in PUMA and r["seq_len"] == PUMA[r["model"]][0] and r["batch"] == 1]
    ours = [r for r in ours if r["variant"].startswith("fot")]
    if not ours:
        return []
    named = sorted({record["model"] for record in ours})
    rows = [[f"PUMA: {model}", "", *_figures(0, *PUMA[model][1:])] for model in named]
    note = (
        "PUMA: the same engine and protocol (SPU, ABY3), other machines (32 cores a server, 5 Gbps, 1 ms), softmax and "
        "GELU by its own polynomials, and the embedding under MPC, which here is the data owner's. It does not say "
        "whether its GB are of one party or of all. `fot-rfa` and `fot-fourier` need an adapted model, PUMA does not."
    )
    return [_table("BERT, 128 tokens: a forward pass, ours and PUMA's", ours, rows, note)]


def _table(title: str, ours: list[Record], published: list[list[str]], note: str) -> Table:
    rows = []
    for record in sorted(ours, key=lambda r: (setting_name(r), r["model"], METHODS.index(r["variant"]))):
        phases = record["offline"], record["online"]
        scaled = f", scaled from {record['measured_layers']} layer(s)" if record["extrapolated"] else ""
        name = f"{record['variant']}, {record['model']}, {record['activation']}{scaled}"
        seconds = [phase["seconds"] for phase in phases]
        total = sum(phase["bytes_total"] for phase in phases)
        party = sum(phase["bytes"] for phase in phases)
        rows.append(
            [name, setting_name(record), *_figures(seconds[0], sum(seconds), total / 1e9), f"{party / 1e9:,.2f}"]
        )
    columns = ["method", "setting", "of which offline s", "s", "GB of all", "GB a party"]
    return Table(title, columns, [*rows, *([*row, ""] for row in published)], [note], words=2)


def _figures(offline: float, seconds: float, gigabytes: float) -> list[str]:
    return [f"{offline:,.1f}" if offline else "", f"{seconds:,.1f}", f"{gigabytes:,.1f}"]
