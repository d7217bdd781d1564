"""Figures of bench records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from secp_spu.bench.records import Record
from secp_spu.bench.tables import METHODS, groups, model_and_input, of_bench, one_a_method, setting_name, workload
from secp_spu.drawing import new_figure
from secp_spu.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_COLOURS = {"offline": "#e0a458", "forward": "#3d6fb4", "backward": "#7fa6d6", "optimizer": "#9aa5b1"}
PART_COLOURS = ["#3d6fb4", "#e0a458", "#5b9a68", "#9aa5b1"]
OPTIMIZER_COLOURS = {kind: f"C{number}" for number, kind in enumerate(OPTIMIZERS)}
METHOD_NAMES = {
    "sft": "fine-tuning",
    "prompt": "gradient prompt",
    "fot": "FoT, softmax",
    "fot-rfa": "FoT, RFA",
    "fot-fourier": "FoT, Fourier (ours)",
    "gradient": "gradient at home (ours)",
}
FEATURE_NAMES = {"rfa": "random features", "fourier": "learned features"}


def draw_iterations(records: Iterable[Record]) -> dict[str, Figure]:
    """Time and communication of an iteration by method: a figure for every workload and setting, by file name."""
    found = groups(of_bench(records, "iteration"), lambda r: (model_and_input(r), setting_name(r)))
    return {
        f"iteration-{_file(group[0], activation=False)}": _draw_iteration(": ".join(key), group) for key, group in found
    }


def _draw_iteration(title: str, records: Sequence[Record]) -> Figure:
    records = one_a_method(records)
    figure, (time, traffic) = _panels(title, rows=len(records))
    names = [_name(record) for record in records]
    seconds = {"offline": [record["offline"]["seconds"] for record in records]}
    gigabytes = {"offline": [record["offline"]["bytes_total"] / 1e9 for record in records]}
    for stage in ("forward", "backward", "optimizer"):
        seconds[stage] = [record["stages"][stage]["seconds"] for record in records]
        gigabytes[stage] = [record["stages"][stage]["bytes_total"] / 1e9 for record in records]
    _stack(time, names, seconds, "{:,.0f} s")
    _stack(traffic, names, gigabytes, "{:,.1f} GB")
    time.set(xlabel="seconds", title="Time")
    traffic.set(xlabel="GB sent by all parties", title="Communication")
    traffic.set_yticklabels([])
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _stack(axes: Axes, names: Sequence[str], parts: dict[str, list[float]], label: str) -> None:
    left = [0.0] * len(names)
    for part, values in parts.items():
        axes.barh(names, values, left=left, color=STAGE_COLOURS[part], label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for i, total in enumerate(left):
        axes.text(total, i, " " + label.format(total), va="center", fontsize=9)
    axes.margins(x=0.2)


def draw_operations(records: Iterable[Record]) -> dict[str, Figure]:
    """What part of a layer is attention, activation, layer norm and dense layers, by method, by file name."""
    found = groups(of_bench(records, "operation"), lambda r: (workload(r), setting_name(r)))
    return {f"operations-{_file(group[0])}": _draw_operations(": ".join(key), group) for key, group in found}


def _draw_operations(title: str, records: Sequence[Record]) -> Figure:
    methods = [method for method in METHODS if any(record["variant"] == method for record in records)][::-1]
    figure, panels = _panels(title, rows=len(methods))
    for axes, figure_name in zip(panels, ("seconds", "bytes"), strict=True):
        for row, method in enumerate(methods):
            parts = [record for record in records if record["variant"] == method]
            total = sum(part["online"][figure_name] for part in parts)
            left = 0.0
            for colour, part in zip(PART_COLOURS, parts, strict=False):
                share = part["online"][figure_name] / total
                axes.barh(row, share, left=left, color=colour)
                if share > 0.05:
                    axes.text(
                        left + share / 2, row, f"{share:.0%}", ha="center", va="center", color="white", fontsize=9
                    )
                left += share
        axes.set(title=f"Share of the {figure_name}", xlim=(0, 1), xticks=[])
        axes.set_yticks(range(len(methods)), [METHOD_NAMES[method] for method in methods])
        axes.spines["bottom"].set_visible(False)
    panels[1].set_yticklabels([])
    names = ["attention", records[0]["activation"], "layer norm", "linear"]
    for colour, name in zip(PART_COLOURS, names, strict=True):
        panels[0].barh(0, 0, color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_attention(records: Iterable[Record]) -> dict[str, Figure]:
    """Attention against length: bytes and seconds of the online phase, a figure a setting (the paper's figure 3)."""
    found = groups(of_bench(records, "attention"), setting_name)
    return {f"attention-{_file(group[0])}": _draw_attention(setting, group) for setting, group in found}


def _draw_attention(setting: str, records: Sequence[Record]) -> Figure:
    figure, panels = _panels(f"One layer's attention: {setting}", rows=5)
    lengths = sorted({record["seq_len"] for record in records})
    for axes, figure_name, scale in zip(panels, ("seconds", "bytes"), (1, 1e6), strict=True):
        for (variant, features), lines in groups(records, lambda r: (r["variant"], r.get("features"))):
            lines = sorted(lines, key=lambda r: r["seq_len"])
            values = [line["online"][figure_name] / scale for line in lines]
            name = "softmax" if variant == "softmax" else f"{FEATURE_NAMES[variant]}, {features}"
            (drawn,) = axes.plot([line["seq_len"] for line in lines], values, marker="o", markersize=4, label=name)
            if variant == "softmax":
                drawn.set(color="#9aa5b1", linestyle="--")
        axes.set(xscale="log", yscale="log", xlabel="tokens")
        axes.set_xticks(lengths)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.minorticks_off()
    panels[0].set(ylabel="seconds, online", title="Time")
    panels[1].set(ylabel="MB a party, online", title="Communication")
    panels[0].legend(frameon=False)
    return figure


def draw_networks(records: Iterable[Record]) -> dict[str, Figure]:
    """Predicted seconds of an iteration on each network, by method: a figure for every workload and setting."""
    of_iterations = (r for r in of_bench(records, "network") if r["source_bench"] == "iteration")
    found = groups(of_iterations, lambda r: (model_and_input(r), setting_name(r)))
    return {
        f"network-{_file(group[0], activation=False)}": _draw_networks(": ".join(key), group) for key, group in found
    }


def _draw_networks(title: str, records: Sequence[Record]) -> Figure:
    figure = new_figure(8, 4.2)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    by_network = {
        network: {_name(r, "source_variant"): r["seconds"] for r in one_a_method(group, "source_variant")}
        for network, group in groups(records, lambda r: r["variant"])
    }
    networks, first = list(by_network), next(iter(by_network.values()))
    methods = [method for method in first if all(method in found for found in by_network.values())]
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        places = [n + (i - (len(methods) - 1) / 2) * width for n in range(len(networks))]
        bars = axes.bar(places, [by_network[n][method] for n in networks], width * 0.9, label=method)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks(range(len(networks)), networks)
    axes.set(yscale="log", ylabel="seconds, offline and online, predicted")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    axes.margins(y=0.15)
    return figure


def draw_optimizers(records: Iterable[Record]) -> dict[str, Figure]:
    """Validation loss and test accuracy against evaluations: a row of panels for each task."""
    found = list(groups(of_bench(records, "optimizers"), lambda r: (r["task"], r["max_evaluations"])))
    if not found:
        return {}
    figure = new_figure(9, 0.6 + 3 * len(found))
    panels = figure.subplots(len(found), 2, squeeze=False)
    for ((task, _), of_task), (loss, accuracy) in zip(found, panels, strict=True):
        for (optimizer, *_), runs in groups(of_task, _course):
            _band(loss, runs[0]["evaluations"], [run["validation_loss"] for run in runs], optimizer)
            tested = [[found for _, found in run["test_accuracy"]] for run in runs]
            _band(accuracy, [evaluations for evaluations, _ in runs[0]["test_accuracy"]], tested, optimizer)
        loss.set(
            ylabel="validation loss",
            title=f"{task}, {len({run['seed'] for run in of_task})} seeds",
            xlabel="evaluations",
        )
        accuracy.set(ylabel="accuracy on unseen texts", xlabel="evaluations")
        for axes in (loss, accuracy):
            axes.spines[["top", "right"]].set_visible(False)
    lines = {line.get_label(): line for axes in panels[:, 0] for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, frameon=False)
    return {"optimizers": figure}


def _course(record: Record) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Optimizer, and the evaluations at which its losses and its accuracies were taken."""
    tested = tuple(evaluations for evaluations, _ in record["test_accuracy"])
    return record["variant"], tuple(record["evaluations"]), tested


def _band(axes: Axes, steps: Sequence[int], runs: Sequence[Sequence[float]], name: str) -> None:
    """The median over runs, and a band from their lower to their upper quartile."""
    low, middle, high = np.quantile(np.array(runs), [0.25, 0.5, 0.75], axis=0)
    colour = OPTIMIZER_COLOURS[name]
    axes.plot(steps, middle, label=name, linewidth=1.5, color=colour)
    axes.fill_between(steps, low, high, alpha=0.12, color=colour, linewidth=0)


def _name(record: Record, method: str = "variant") -> str:
    return f"{METHOD_NAMES[record[method]]}, {record['activation']}"


def _panels(title: str, *, rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = new_figure(9, 1.6 + 0.45 * rows)
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, 2)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _file(record: Record, *, activation: bool = True) -> str:
    parts = [record["protocol"], str(record["parties"]), record["correlations"]]
    if "model" in record:
        parts += [record["model"], str(record["seq_len"]), *([record["activation"]] if activation else [])]
    return "-".join(parts)
