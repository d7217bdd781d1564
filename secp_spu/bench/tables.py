"""Tables of bench records: the same rows for terminal and Markdown, every cost with its unit and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from secp_spu.bench.records import Record

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: what is shown.
        columns: names with units.
        rows: as many texts each.
        notes: what a reader must know.
        words: how many columns, from the left, hold words; the others hold figures.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: int = 1

    def markdown(self) -> str:
        """The table as a section of a Markdown document."""
        marks = ["---" if i < self.words else "---:" for i in range(len(self.columns))]
        lines = [self.columns, marks, *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([f"## {self.title}", table, *self.notes]) + "\n"


def of_bench(records: Iterable[Record], bench: str) -> list[Record]:
    """The records of one bench."""
    return [record for record in records if record["bench"] == bench]


def setting_name(record: Record) -> str:
    """Protocol, parties and where correlations come from, in words."""
    return f"{record['protocol']}, {record['parties']} parties, {record['correlations']}"


def groups(records: Iterable[Record], key: Callable[[Record], Key]) -> Iterator[tuple[Key, list[Record]]]:
    """Records of one key together, in the order of their first one."""
    found: dict[Key, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    yield from found.items()


def cosine_tables(records: Iterable[Record]) -> list[Table]:
    """Bytes, sends and seconds of a cosine."""
    note = (
        "`spu-cos` is a cosine alone, the others are cosine and sine of an angle; `one-opening` keeps all bits of its "
        "products."
    )
    return [
        _by_element("Cosine", name, group, note) for name, group in groups(of_bench(records, "cosine"), setting_name)
    ]


def activation_tables(records: Iterable[Record]) -> list[Table]:
    """Bytes, sends and seconds of an activation."""
    found = groups(of_bench(records, "activation"), setting_name)
    return [_by_element("Activations", name, group) for name, group in found]


def _by_element(title: str, setting: str, records: Sequence[Record], *notes: str) -> Table:
    rows = []
    for record in records:
        online, offline, elements = record["online"], record["offline"], record["elements"]
        rows.append(
            [
                record["variant"],
                f"{online['bytes'] / elements:,.1f}",
                f"{online['sends']:,.1f}",
                f"{online['seconds'] / elements * 1e6:.2f}",
                f"{offline['bytes'] / elements:,.1f}",
                f"{offline['sends']:,.1f}",
                f"{offline['seconds'] / elements * 1e6:.2f}",
                f"{record['max_abs_error']:.1e}",
            ]
        )
    columns = ["variant", "online B", "online sends", "online µs"]
    columns += ["offline B", "offline sends", "offline µs", "max error"]
    note = "Bytes and µs are of an element, sends of the whole call; bytes and sends are the mean over the parties."
    return Table(f"{title}: {setting}", columns, rows, [note, *notes])


def attention_tables(records: Iterable[Record]) -> list[Table]:
    """Softmax against random features, by length."""
    found = groups(of_bench(records, "attention"), lambda r: (setting_name(r), r["heads"], r["head_dim"]))
    return [_attention_table(key, group) for key, group in found]


def _attention_table(key: tuple[str, int, int], records: Sequence[Record]) -> Table:
    setting, heads, head_dim = key
    softmax = {record["seq_len"]: record["online"] for record in records if record["variant"] == "softmax"}
    rows = []
    for record in sorted(records, key=lambda r: (r["seq_len"], r.get("features", 0))):
        against, online, offline = softmax.get(record["seq_len"]), record["online"], record["offline"]
        rows.append(
            [
                str(record["seq_len"]),
                record["variant"] + (f", {record['features']} features" if "features" in record else ""),
                *cost_cells(online),
                *cost_cells(offline),
                f"{against['bytes'] / online['bytes']:.1f}" if against else "",
                f"{against['seconds'] / online['seconds']:.1f}" if against else "",
                f"{record['max_abs_error']:.1e}",
            ]
        )
    columns = ["tokens", "attention", "online MB", "online sends", "online s", "offline MB", "offline sends"]
    columns += ["offline s", "softmax bytes / these", "softmax s / these", "max error"]
    note = (
        "One layer's attention on one sequence, from queries, keys and values to the heads' output. MB and sends: mean "
        "over the parties. The ratios are of the online phase; softmax has no offline phase."
    )
    return Table(f"Attention of {heads} heads of {head_dim}: {setting}", columns, rows, [note], words=2)


def iteration_tables(records: Iterable[Record]) -> list[Table]:
    """One tuning iteration by method."""
    found = groups(of_bench(records, "iteration"), lambda r: (model_and_input(r), setting_name(r)))
    return [_iteration_table(key, group) for key, group in found]


def _iteration_table(key: tuple[str, str], records: Sequence[Record]) -> Table:
    ours = _cheapest(records)
    rows = []
    for record in sorted(records, key=by_method):
        stages = (record["stages"][stage]["seconds"] for stage in ("forward", "backward", "optimizer"))
        offline, online = record["offline"], record["online"]
        rows.append(
            [
                method_name(record) + (" *" if record["extrapolated"] else ""),
                *(f"{seconds:,.1f}" for seconds in stages),
                f"{offline['bytes'] / 1e6:,.1f}",
                f"{offline['seconds']:,.1f}",
                *cost_cells(online),
                f"{_all_parties(record) / 1e9:,.2f}",
                f"{_seconds(record):,.1f}",
                *(_ratios(record, ours[record["extrapolated"]]) if record["extrapolated"] in ours else ("", "")),
            ]
        )
    columns = ["method", "forward s", "backward s", "optimizer s", "offline MB", "offline s", "online MB"]
    columns += ["online sends", "online s", "GB of all", "total s", "bytes / ours", "s / ours"]
    note = (
        "MB and sends: mean over the parties. `GB of all` parties, `total s` and the ratios are of offline and online "
        "together; ours is the cheapest with features. Set-up, once a run, is left out, and with it the weights' "
        "openings under semi2k."
    )
    scaled = sorted({r["measured_layers"] for r in records if r["extrapolated"]})
    mark = f"`*`: scaled linearly; layers measured: {', '.join(map(str, scaled))}." if scaled else ""
    return Table(f"One iteration of {': '.join(key)}", columns, rows, [note, mark] if mark else [note])


def _cheapest(records: Sequence[Record]) -> dict[bool, Record]:
    """The record of forward-only tuning with features, which the others are held against, by whether it is scaled."""
    ours = sorted((r for r in records if r["variant"] in OURS), key=_all_parties, reverse=True)
    return {record["extrapolated"]: record for record in ours}


def operation_tables(records: Iterable[Record]) -> list[Table]:
    """The parts of one layer, by method."""
    found = groups(of_bench(records, "operation"), lambda r: (workload(r), setting_name(r)))
    return [_operation_table(key, group) for key, group in found]


def _operation_table(key: tuple[str, str], records: Sequence[Record]) -> Table:
    rows = []
    for record in sorted(records, key=lambda r: METHODS.index(r["variant"])):
        of_method = [r for r in records if r["variant"] == record["variant"]]
        shares = (
            record["online"][figure] / sum(r["online"][figure] for r in of_method) for figure in ("bytes", "seconds")
        )
        cells = [record["variant"], record["operation"], *cost_cells(record["online"]), *cost_cells(record["offline"])]
        least = f"{record['least_bytes'] / 1e6:,.1f}" if "least_bytes" in record else ""
        rows.append([*cells, least, *(f"{share:.0%}" for share in shares)])
    columns = ["method", "operation", "online MB", "online sends", "online s", "offline MB", "offline sends"]
    columns += ["offline s", "least MB", "of the bytes", "of the seconds"]
    note = (
        "Each part of one layer measured on its own, with its backward pass where the method has one; shares are of "
        "these parts' online phase. MB and sends: mean over the parties. `least MB`: one ring element for each result "
        "of a secret product (aby3) or operand of one (semi2k; weights are opened once a run), and for each masked "
        "value that is opened; no truncation, inverse root or reciprocal."
    )
    return Table(f"One layer of {': '.join(key)}", columns, rows, [note], words=2)


def optimizer_tables(records: Iterable[Record]) -> list[Table]:
    """Optimizers by what they reach, a table for each task."""
    found = groups(of_bench(records, "optimizers"), lambda r: (r["task"], r["max_evaluations"]))
    return [_optimizer_table(key, group) for key, group in found]


def _optimizer_table(key: tuple[str, int], records: Sequence[Record]) -> Table:
    rows = []
    for optimizer, runs in groups(records, lambda r: r["variant"]):
        half = [run["validation_loss"][(len(run["validation_loss"]) - 1) // 2] for run in runs]
        cells = [half, [run["validation_loss"][-1] for run in runs], [run["training_loss"][-1] for run in runs]]
        accuracies = [[run["test_accuracy"][i][1] for run in runs] for i in (0, -1)]
        rows.append([optimizer, str(len(runs)), *map(mean_and_deviation, [*cells, *accuracies])])
    columns = ["optimizer", "seeds", "validation loss, half way", "validation loss", "training loss"]
    columns += ["accuracy untuned", "accuracy tuned"]
    note = (
        "In plaintext; mean and standard deviation over seeds. The validation loss is that of the selected prompt; the "
        "two finalists of a generation are evaluated on the validation texts besides. Accuracy is on unseen texts."
    )
    return Table(f"Optimizers on {key[0]}, {key[1]} evaluations", columns, rows, [note])


def mean_and_deviation(values: Sequence[float], decimals: int = 3) -> str:
    """Mean and, of more than one value, standard deviation."""
    deviation = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{deviation}"


def model_and_input(record: Record) -> str:
    """The model's shape, and the sequences that go through it."""
    layers = f" ({record['layers']} layers)" if "layers" in record else ""
    return f"{record['model']}{layers}, {record['batch']} x {record['seq_len']} tokens"


def workload(record: Record) -> str:
    """The same with the activation."""
    return f"{model_and_input(record)}, {record['activation']}"


def method_name(record: Record) -> str:
    """A method and its activation."""
    return f"{record['variant']}, {record['activation']}"


def by_method(record: Record) -> tuple[int, str]:
    """For sorting: as METHODS, then by activation."""
    return METHODS.index(record["variant"]), record["activation"]


def one_a_method(records: Sequence[Record], method: str = "variant") -> list[Record]:
    """A record of each method and activation, in the order of tables: all scaled or all in full, where it can be."""
    kinds = Counter(record["extrapolated"] for record in records)
    ordered = sorted(records, key=lambda r: kinds[r["extrapolated"]])
    found = {(METHODS.index(record[method]), record["activation"]): record for record in ordered}
    return [found[key] for key in sorted(found)]


METHODS = ("sft", "prompt", "fot", "fot-rfa", "fot-fourier", "gradient")
"""In the order of tables."""

OURS = ("fot-rfa", "fot-fourier")
"""With features instead of softmax."""


def cost_cells(cost: Mapping[str, float]) -> tuple[str, str, str]:
    """MB, sends and seconds."""
    return f"{cost['bytes'] / 1e6:,.1f}", f"{cost['sends']:,.0f}", f"{cost['seconds']:,.1f}"


def _all_parties(record: Record) -> float:
    return float(record["offline"]["bytes_total"] + record["online"]["bytes_total"])


def _seconds(record: Record) -> float:
    return float(record["offline"]["seconds"] + record["online"]["seconds"])


def _ratios(record: Record, ours: Record) -> tuple[str, str]:
    return f"{_all_parties(record) / _all_parties(ours):.1f}", f"{_seconds(record) / _seconds(ours):.1f}"
