"""Rewrites the tables of README.md and docs/ from the records in docs/bench.

python scripts/update_docs.py           # docs/bench/report.md and its figures too
python scripts/update_docs.py --check   # writes nothing; status 1 if a table is not what the records say

A table stands in a page between `<!-- table: NAME -->` and `<!-- end of table -->`. Text between these two lines is
overwritten. `TABLES` has the names.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from secp_spu.bench import (
    Record,
    accuracy_tables,
    activation_tables,
    cosine_tables,
    optimizer_tables,
    read_records,
    write_report,
)
from secp_spu.bench.published import PAPER, PUMA
from secp_spu.protocol import fit_gelu

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "docs" / "bench"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

METHODS = {
    "sft": "fine-tuning of all weights",
    "prompt": "gradient prompt tuning",
    "fot": "forward-only tuning, softmax",
    "fot-rfa": "forward-only tuning, random features",
    "fot-fourier": "forward-only tuning, learned features",
}
"""Names of the records' methods, in the order of tables."""

VARIANTS = {
    "spu-cos": "SPU's cosine",
    "spu-cos-sin": "SPU's cosine and sine",
    "one-opening": "ours, cosine and sine",
}
"""Names of the cosines in the records; the other variants are keys of configurations."""

ACTIVATIONS = {
    "gelu": "any checkpoint of GELU",
    "gelu_tanh": "the same; within 5e-4 of GELU, and 8e-3 under MPC",
    "relu": "checkpoints of relu",
    "quadratic": "checkpoints adapted to it: a learned a x² + b x + c for each neuron, a > 0",
    "series": "checkpoints adapted to it, or of GELU with `model.activation_range`",
}
"""Activations, and what each is for."""


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table; the first `words` columns hold words, the others figures."""
    marks = ["---" if place < words else "---:" for place in range(len(columns))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, marks, *rows])


def the_one(records: Sequence[Record], **wanted: Any) -> Record:
    """The only record with these values."""
    (found,) = [record for record in records if wanted.items() <= record.items()]
    return found


def gigabytes(record: Record, key: str = "bytes_total") -> float:
    """GB of the offline and the online phase: of all parties, or with `bytes` of a party."""
    return (record["offline"][key] + record["online"][key]) / 1e9


def made_by(tables: Callable[[Sequence[Record]], list[Any]], start: str, records: Sequence[Record]) -> str:
    """A table of the report without its title: the first one whose title starts like this."""
    table = next(table for table in tables(records) if table.title.startswith(start))
    return markdown(table.columns, table.rows, table.words)


def by_element(tables: Callable[[Sequence[Record]], list[Any]], records: Sequence[Record]) -> str:
    """Costs of an element under both protocols, without microseconds, which depend on the machine."""
    names = ["variant", "online B", "online sends", "offline B", "offline sends", "max error"]
    rows = []
    for table in tables(records):
        protocol = table.title.split(": ")[1].removesuffix(", joint")
        places = [table.columns.index(name) for name in names]
        for row in table.rows:
            variant, *figures = (row[place] for place in places)
            rows.append([protocol, VARIANTS.get(variant, f"`{variant}`"), *figures])
    return markdown(["protocol", *names], rows, words=2)


def iteration(protocol: str, records: Sequence[Record]) -> str:
    """Bytes and sends of one iteration of RoBERTa-large on 512 tokens, by method."""
    found = [r for r in records if r["bench"] == "iteration" and r["model"] == "roberta-large"]
    found = [r for r in found if r["protocol"] == protocol and r["extrapolated"]]
    ours = gigabytes(the_one(found, variant="fot-fourier", activation="quadratic"))
    order = list(METHODS)
    rows = [
        [
            METHODS[record["variant"]],
            f"`{record['activation']}`",
            f"{gigabytes(record):,.1f}",
            f"{gigabytes(record) / ours:.1f}",
            f"{gigabytes(record, 'bytes'):,.2f}",
            f"{record['offline']['bytes'] / 1e9:,.2f}",
            f"{record['offline']['sends'] + record['online']['sends']:,.0f}",
        ]
        for record in sorted(found, key=lambda r: (order.index(r["variant"]), -gigabytes(r)))
    ]
    columns = ["method", "activation", "GB of all parties", "GB / ours", "GB a party", "of it offline"]
    return markdown([*columns, "sends a party"], rows, words=2)


def paper(records: Sequence[Record]) -> str:
    """The paper's figures of an iteration beside ours."""
    found = [r for r in records if r["bench"] == "iteration" and r["model"] == "roberta-large" and r["extrapolated"]]
    rows = []
    for method, (seconds, sent) in PAPER.items():
        activation = "quadratic" if method == "fot-rfa" else "gelu_tanh"
        ours = gigabytes(the_one(found, variant=method, protocol="aby3", activation=activation))
        rows.append([METHODS[method], f"{sent:,.1f}", f"{seconds:,.1f}", f"{ours:,.1f}", f"`{activation}`"])
    best = the_one(found, variant="fot-fourier", protocol="aby3", activation="quadratic")
    rows.append([METHODS["fot-fourier"], "", "", f"{gigabytes(best):,.1f}", "`quadratic`"])
    columns = ["method", "the paper: GB", "seconds", "ours: GB of all parties", "our activation"]
    return markdown(columns, rows)


def puma(records: Sequence[Record]) -> str:
    """BERT-large on 128 tokens beside PUMA's figure."""
    found = [r for r in records if r["bench"] == "iteration" and r["model"] == "bert-large"]
    rows = [
        [METHODS[r["variant"]], f"`{r['activation']}`", f"{gigabytes(r):,.1f}", f"{gigabytes(r, 'bytes'):,.2f}"]
        for r in sorted(found, key=lambda r: -gigabytes(r))
    ]
    rows.append(["PUMA, softmax", "its own polynomials of GELU", f"{PUMA['bert-large'][2]:,.1f}", ""])
    return markdown(["method", "activation", "GB of all parties", "GB a party"], rows, words=2)


def attention(records: Sequence[Record]) -> str:
    """MB a party of one layer's attention by length, offline included."""
    kinds = {"softmax": "softmax", "rfa": "random features", "fourier": "learned features"}
    found = [r for r in records if r["bench"] == "attention"]
    rows = []
    for tokens in sorted({r["seq_len"] for r in found}):
        of_length = [r for r in found if r["seq_len"] == tokens]
        cells = [
            next(r for r in of_length if r["protocol"] == protocol and is_variant(r, variant))
            for protocol in ("aby3", "semi2k")
            for variant in kinds
        ]
        rows.append([str(tokens), *(f"{1000 * gigabytes(record, 'bytes'):,.1f}" for record in cells)])
    names = list(kinds.values())
    return markdown(["tokens", f"aby3: {names[0]}", *names[1:], f"semi2k: {names[0]}", *names[1:]], rows, words=0)


def is_variant(record: Record, variant: str) -> bool:
    """Is the record of this kind of attention, with 64 features if it has features?"""
    return record["variant"] == variant and record.get("features", 64) == 64


def activation_choice(records: Sequence[Record]) -> str:
    """Online bytes of an element by activation, and what each is for."""
    found = [r for r in records if r["bench"] == "activation"]
    rows = []
    for name, purpose in ACTIVATIONS.items():
        both = [the_one(found, variant=name, protocol=protocol) for protocol in ("aby3", "semi2k")]
        rows.append([f"`{name}`", *(f"{r['online']['bytes'] / r['elements']:,.0f}" for r in both), purpose])
    header, marks, *body = markdown(["`model.activation`", "ABY3", "SEMI2K, 2 parties", "for"], rows).splitlines()
    return "\n".join([header, marks.removesuffix("---: |") + "--- |", *body])


def optimizers(records: Sequence[Record]) -> str:
    """Accuracy of the prompt that each optimizer finds, by task."""
    tasks = {"Optimizers on tiny": "the demo", "Optimizers on sst2": "SST-2", "Optimizers on agnews": "AG's News"}
    found: dict[str, list[str]] = {}
    for table in optimizer_tables(records):
        if table.title.partition(",")[0] in tasks:
            tuned = table.columns.index("accuracy tuned")
            untuned = table.columns.index("accuracy untuned")
            found.setdefault("untuned prompt", []).append(table.rows[0][untuned])
            for row in table.rows:
                found.setdefault(f"`{row[0]}`", []).append(row[tuned])
    titles = [table.title.partition(",")[0] for table in optimizer_tables(records)]
    return markdown(
        ["optimizer", *(tasks[title] for title in titles if title in tasks)], [[k, *v] for k, v in found.items()]
    )


def embedding(records: Sequence[Record]) -> str:
    """What embedding texts and prompts costs, beside a forward pass."""
    rows = []
    for record in (r for r in records if r["bench"] == "embedding"):
        what, _, where = record["variant"].partition(", ")
        sent = [record["offline"][key] + record["online"][key] for key in ("bytes", "sends")]
        often = "once a run" if what == "texts" else "every evaluation"
        where = {"data_owner": "by the data owner", "private": "under MPC"}.get(where, "")
        rows.append([what, where, often, f"{sent[0] / 1e6:,.1f}", f"{sent[1]:,.0f}"])
    return markdown(["what", "embedded", "how often", "MB a party", "sends a party"], rows, words=3)


def series_errors(_: Sequence[Record]) -> str:
    """Largest error of the GELU series by range and number of terms."""
    terms = (4, 5, 6, 8)
    rows = [[f"{limit}", *(f"{fit_gelu(float(limit), k).error:.1e}" for k in terms)] for limit in (4, 6, 8, 10, 16)]
    return markdown(["R", "4 terms", "5", "6", "8"], rows, words=0)


def networks(records: Sequence[Record]) -> str:
    """Minutes of delays and transfer in an iteration of RoBERTa-large on the paper's networks, ABY3."""
    found = [r for r in records if r["bench"] == "network" and r["source_bench"] == "iteration"]
    found = [
        r for r in found if r["model"] == "roberta-large" and r["protocol"] == "aby3" and r.get("measured_layers") == 1
    ]
    rows = []
    for variant, name in METHODS.items():
        for kind in ("gelu_tanh", "series", "quadratic"):
            of_kind = {r["variant"]: r for r in found if (r["source_variant"], r["activation"]) == (variant, kind)}
            if of_kind:
                minutes = [f"{without_compute(of_kind[network]) / 60:,.1f}" for network in ("LAN", "WAN1", "WAN2")]
                rows.append([name, f"`{kind}`", *minutes])
    return markdown(["method", "activation", "LAN", "WAN1", "WAN2"], rows, words=2)


def without_compute(record: Record) -> float:
    """Predicted seconds of delays and transfer, offline and online."""
    phases = record["offline"], record["online"]
    return sum(phase["latency_seconds"] + phase["transfer_seconds"] for phase in phases)


def key_figures(records: Sequence[Record]) -> str:
    """The four figures of the README, each with the model and the configuration that it belongs to."""
    cosine = [r for r in records if r["bench"] == "cosine" and r["protocol"] == "aby3"]
    spu, own = (the_one(cosine, variant=name) for name in ("spu-cos-sin", "one-opening"))
    offline, of_spu = (
        f"{cost['bytes'] / 1e5:,.0f} bytes and {cost['sends']:,.0f} message{'s' if cost['sends'] > 1 else ''}"
        for cost in (own["offline"], spu["online"])
    )
    iterations = [r for r in records if r["bench"] == "iteration" and r["model"] == "roberta-large"]
    iterations = [r for r in iterations if r["protocol"] == "aby3" and r["extrapolated"]]
    learned = gigabytes(the_one(iterations, variant="fot-fourier", activation="quadratic"))
    softmax = gigabytes(the_one(iterations, variant="fot"))
    means = {row[0]: row[-1] for row in accuracy_tables(records)[0].rows}
    adapted, softmax_tuned = (means[f"FoT, {model}, 6 generations"] for model in ("adapted", "softmax"))
    steps = means["momentum, adapted, 10 steps"]
    untuned, softmax_untuned = (means[f"{model}, initial prompt"] for model in ("adapted", "softmax"))
    plain, secure = (
        the_one(records, bench="accuracy", variant=v, test_texts=100) for v in ("fot-adapted", "fot-secure")
    )
    rows = [
        [
            "a private cosine and sine",
            f"**8 bytes and 1 message** a party online, {offline} offline; SPU's own: {of_spu}",
            "ABY3, 100,000 angles at once, for each angle; the messages are of the whole call",
        ],
        [
            "one evaluation of one prompt on one text",
            f"**{learned:.1f} GB** of all parties; with softmax and tanh GELU {softmax:,.1f} GB",
            "shape of RoBERTa-large, 512 tokens, 1 text, ABY3, learned features and `quadratic`, offline phase "
            "included; scaled from 1 of 24 layers",
        ],
        [
            "accuracy of an adapted model",
            f"**{steps} %** by 10 steps of `momentum`, {adapted} % by 120 evaluations of CMA-ES, untuned {untuned} %; "
            f"the original model with softmax and CMA-ES {softmax_tuned} %, untuned {softmax_untuned} %",
            "MiniLM, learned features and `quadratic`, mean of 4 tasks with 16 examples a class, 5 seeds, in plaintext",
        ],
        [
            "tuning under MPC against plaintext",
            f"**{100 * secure['accuracy']:.0f} and {100 * plain['accuracy']:.0f} of 100 texts** right, validation "
            f"losses {secure['validation_loss']:.4f} and {plain['validation_loss']:.4f}",
            "MiniLM adapted in 1,000 steps, `series`, SST-2, 1 generation, 1 seed, ABY3",
        ],
    ]
    assert (own["online"]["bytes"], own["online"]["sends"]) == (8e5, 1)
    return markdown(["what", "figure", "model and configuration"], rows, words=3)


TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    "key-figures": key_figures,
    "cosine": partial(by_element, cosine_tables),
    "activations": partial(by_element, activation_tables),
    "iteration-aby3": partial(iteration, "aby3"),
    "iteration-semi2k": partial(iteration, "semi2k"),
    "attention": attention,
    "activation-choice": activation_choice,
    "series-errors": series_errors,
    "networks": networks,
    "embedding": embedding,
    "paper": paper,
    "puma": puma,
    "accuracy": partial(made_by, accuracy_tables, "Accuracy"),
    "tuning-under-mpc": partial(made_by, accuracy_tables, "Tuning under MPC"),
    "optimizers": optimizers,
}
"""Tables by the names that pages have for them."""


def pages() -> list[Path]:
    """The documents that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def current(page: str, records: Sequence[Record]) -> str:
    """A page with its tables as the records have them."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](records)}\n\n{found[3]}", page)


def all_records() -> list[Record]:
    """The records in docs/bench, in the order of their files' names."""
    return [record for path in sorted(BENCH.glob("*.json")) for record in read_records(path)]


def stale(records: Sequence[Record]) -> Iterator[tuple[Path, str]]:
    """Pages whose tables are not what the records say, and what they should be."""
    for path in pages():
        page = path.read_text(encoding="utf-8")
        if (wanted := current(page, records)) != page:
            yield path, wanted


def main() -> int:
    """Rewrite, or with --check say what would be rewritten."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a table is out of date")
    check = parser.parse_args().check
    records = all_records()
    found = list(stale(records))
    if not check:
        write_report(records, BENCH)
        for path, wanted in found:
            path.write_text(wanted, encoding="utf-8")
    for path, _ in found:
        print(f"{path.relative_to(ROOT)}: tables {'out of date' if check else 'rewritten'}")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
