"""`secp-spu bench ...`: the commands that measure; they parse and print, and leave everything else to `bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from secp_spu.bench import (
    ADAPTED,
    ATTENTION,
    BY_GRADIENT,
    DATA_SETTING,
    FEW_SHOT,
    SHAPES,
    SOURCE,
    TASKS,
    AccuracyMethod,
    Case,
    Comparison,
    FewShotRun,
    Iteration,
    MpcSetting,
    Record,
    RecordFile,
    Table,
    accuracy_cases,
    accuracy_tables,
    activation_cases,
    activation_tables,
    attention_cases,
    attention_tables,
    batching_cases,
    batching_tables,
    check_cases,
    check_tables,
    cosine_cases,
    cosine_tables,
    embedding_cases,
    embedding_tables,
    has_data,
    iteration_cases,
    iteration_tables,
    make_setting,
    measure_all,
    network_cases,
    network_tables,
    operation_tables,
    optimizer_cases,
    optimizer_tables,
    read_records,
    run_cost_cases,
    run_cost_tables,
    write_report,
)
from secp_spu.cli.terminal import QuietOption, TerminalProgress, help_without_command
from secp_spu.errors import ConfigError
from secp_spu.optimizers import OPTIMIZERS
from secp_spu.progress import Progress

Name = TypeVar("Name", bound=str)

bench = typer.Typer(help="Measure what private tuning costs, and its alternatives.")
bench.callback(invoke_without_command=True)(help_without_command)

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="File for the records; what it holds already is not measured again.")
]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="Protocol: aby3 or semi2k.")]
PartiesOption = Annotated[
    int | None, typer.Option("--parties", help="Number of compute parties: 3 under aby3, 2 to 10 under semi2k.")
]
CorrelationsOption = Annotated[
    str,
    typer.Option("--correlations", help="Who makes the correlations: joint (the compute parties) or dealt (a dealer)."),
]
WIDEST = 10_000
"""Columns that no table takes."""

LARGEST = 10**12
"""Largest size that a command takes; what takes more memory than there is has its own check."""

ModelOption = Annotated[str, typer.Option(help=f"A shape: {', '.join(SHAPES)}.")]
LayersOption = Annotated[int | None, typer.Option(min=1, help="Number of layers to run. By default all.")]
ActivationOption = Annotated[str, typer.Option(help="Activation of the feed-forward layers.")]
FeaturesOption = Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of frequencies of a head.")]
LengthOption = Annotated[int, typer.Option("--seq-len", help="Length in tokens, of prompt and text together.")]
LengthsOption = Annotated[str, typer.Option("--seq-len", help="Lengths in tokens, with commas.")]
ElementsOption = Annotated[int, typer.Option("--elements", min=1, max=LARGEST, help="Number of elements.")]


@bench.command()
def cosine(
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    correlations: CorrelationsOption = "joint",
    elements: ElementsOption = 100_000,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """SPU's cosine and sine, and those of one opening: bytes, sends, seconds, error."""
    setting = make_setting(protocol, parties, correlations)
    _measure(lambda _: cosine_cases(setting, elements), json, quiet, cosine_tables)


@bench.command()
def activation(
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    elements: ElementsOption = 100_000,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """The activations that a model may have: bytes, sends, seconds, error."""
    setting = make_setting(protocol, parties, "joint")
    _measure(lambda _: activation_cases(setting, elements), json, quiet, activation_tables)


@bench.command()
def attention(
    lengths: LengthsOption = "64,128,256,512",
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    correlations: CorrelationsOption = "joint",
    heads: Annotated[int, typer.Option(min=1, max=LARGEST)] = 16,
    head_dim: Annotated[int, typer.Option(min=1, max=LARGEST)] = 64,
    features: Annotated[str, typer.Option(help="Numbers of frequencies of a head, with commas.")] = "64",
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Softmax attention and attention by features by length, for one layer (RoBERTa-large's by default)."""
    setting, numbers, counts = make_setting(protocol, parties, correlations), _counts(lengths), _counts(features)
    config = replace(SHAPES["roberta-large"], heads=heads, width=heads * head_dim)
    _measure(lambda _: attention_cases(setting, config, numbers, counts), json, quiet, attention_tables)


@bench.command()
def iteration(
    model: ModelOption = "tiny",
    lengths: LengthsOption = "32",
    methods: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(ATTENTION),
    layers: LayersOption = None,
    extrapolate: Annotated[bool, typer.Option(help="Scale these layers to the whole model.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of texts.")] = 1,
    activation: ActivationOption = "gelu_tanh",
    features: FeaturesOption = 64,
    operations: Annotated[bool, typer.Option(help="Measure the parts of a layer too.")] = True,
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    correlations: CorrelationsOption = "joint",
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """One tuning iteration by method: fine-tuning, gradient prompt tuning, forward-only tuning by attention."""
    setting = make_setting(protocol, parties, correlations)
    wanted = [
        Iteration(
            setting,
            method,
            model,
            length,
            batch,
            layers or (SHAPES[model].layers if model in SHAPES else 1),
            extrapolate,
            activation,
            features,
        )
        for length in _counts(lengths)
        for method in _known(methods, ATTENTION, "--methods")
    ]
    tables = (iteration_tables, operation_tables) if operations else (iteration_tables,)
    _measure(lambda progress: iteration_cases(wanted, progress, operations=operations), json, quiet, *tables)


@bench.command()
def batching(
    model: ModelOption = "tiny",
    length: LengthOption = 32,
    candidates: Annotated[str, typer.Option(help="Numbers of candidates in one pass, with commas.")] = "1,2,4,8",
    batch: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of texts.")] = 1,
    layers: LayersOption = None,
    activation: ActivationOption = "gelu_tanh",
    features: FeaturesOption = 64,
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """A candidate's bytes, sends and seconds by how many go through the model together, and the memory it takes."""
    setting, counts = make_setting(protocol, parties, "joint"), _counts(candidates)
    one = _forward_pass(setting, model, length, batch, layers, activation, features, extrapolate=False)
    _measure(lambda progress: batching_cases(one, counts, progress), json, quiet, batching_tables)


@bench.command()
def embedding(
    model: ModelOption = "tiny",
    length: LengthOption = 32,
    batch: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of texts.")] = 1,
    layers: LayersOption = None,
    activation: ActivationOption = "gelu_tanh",
    features: FeaturesOption = 64,
    protocol: ProtocolOption = "aby3",
    parties: PartiesOption = None,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Embedding by the data owner and under MPC, beside one forward pass; fewer layers of that are scaled to all."""
    setting = make_setting(protocol, parties, "joint")
    one = _forward_pass(setting, model, length, batch, layers, activation, features, extrapolate=layers is not None)
    _measure(lambda progress: embedding_cases(one, progress), json, quiet, embedding_tables)


def _forward_pass(
    setting: MpcSetting,
    model: str,
    length: int,
    batch: int,
    layers: int | None,
    activation: str,
    features: int,
    *,
    extrapolate: bool,
) -> Iteration:
    """One evaluation by forward-only tuning with the cheapest attention."""
    count = layers or (SHAPES[model].layers if model in SHAPES else 1)
    return Iteration(setting, "fot-fourier", model, length, batch, count, extrapolate, activation, features)


@bench.command()
def network(
    records: Annotated[list[Path] | None, typer.Option(help="A file of records to predict; can be repeated.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the prediction with parties on relayed links.")
    ] = False,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="The protocol of --check. By default aby3 and semi2k.")
    ] = None,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Seconds on the paper's LAN and two WANs: predicted from records, or predicted and measured."""
    if check == bool(records):
        raise ConfigError("bench network: give either --records FILE or --check")
    if protocol and not check:
        raise ConfigError("--protocol is for --check: records say what they were measured under")
    if check:
        settings = [make_setting(name, None, "joint") for name in ([protocol] if protocol else ["aby3", "semi2k"])]
        _measure(lambda _: check_cases(settings), json, quiet, check_tables)
    else:
        found = _read(records or ())
        _measure(lambda _: network_cases(found), json, quiet, network_tables)


@bench.command()
def optimizers(
    tasks: Annotated[str, typer.Option(help="Names, with commas; all but tiny need real data.")] = ",".join(TASKS),
    optimizers: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(OPTIMIZERS),
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds, counted from 0.")] = 5,
    evaluations: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Largest number of evaluations of a prompt on the training texts.")
    ] = 240,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Gradient-free optimizers in plaintext: validation loss and test accuracy against evaluations."""
    names, kinds = _known(tasks, TASKS, "--tasks"), _known(optimizers, OPTIMIZERS, "--optimizers")
    left_out = [name for name in names if name != "tiny" and not has_data()]
    if left_out == names:
        raise ConfigError(
            f"--tasks {tasks}: {DATA_SETTING} is not set, which says where its texts are; set it, or take --tasks tiny"
        )
    for name in left_out:
        Console(quiet=quiet).print(f"{name} is left out: {DATA_SETTING} is not set, which says where its texts are")
    wanted = [
        Comparison(task, kind, seed, evaluations)
        for task in names
        if task not in left_out
        for kind in kinds
        for seed in range(seeds)
    ]
    _measure(lambda progress: optimizer_cases(wanted, progress), json, quiet, optimizer_tables)


@bench.command()
def accuracy(
    adapted: Annotated[Path | None, typer.Option(help="MiniLM's folder as `secp-spu adapt` wrote it.")] = None,
    tasks: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(FEW_SHOT),
    methods: Annotated[str, typer.Option(help="Names, with commas.")] = ",".join(get_args(AccuracyMethod)),
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds, counted from 0.")] = 5,
    generations: Annotated[
        int, typer.Option(min=1, max=50_000, help="Number of generations, of 20 evaluations each.")
    ] = 10,
    steps: Annotated[
        int, typer.Option(min=1, max=50_000, help="Number of steps of the methods that tune by gradients.")
    ] = 10,
    test_texts: Annotated[
        int | None, typer.Option(min=1, help="Number of test texts of each task. By default all.")
    ] = None,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Accuracy of MiniLM on real tasks: untuned, tuned by every method, adapted, and under MPC."""
    if not has_data():
        raise ConfigError(f"bench accuracy: {DATA_SETTING} is not set, which says where the tasks' texts are")
    wanted: list[AccuracyMethod] = _known(methods, get_args(AccuracyMethod), "--methods")
    if adapted is None and (needing := [name for name in wanted if name in ADAPTED]):
        raise ConfigError(f"--adapted is missing: {needing[0]} takes a folder that `secp-spu adapt` wrote")
    runs = [
        FewShotRun(
            *(task, method, seed),
            steps if method in BY_GRADIENT else generations,
            adapted if method in ADAPTED else None,
            test_texts,
        )
        for method in wanted
        for task in _known(tasks, FEW_SHOT, "--tasks")
        for seed in range(seeds)
        if (method, task) != ("fot-transfer", SOURCE)
    ]
    if not runs:
        raise ConfigError(f"--tasks {tasks}: fot-transfer starts from a prompt for {SOURCE}, so it takes other tasks")
    _measure(lambda progress: accuracy_cases(runs, progress), json, quiet, accuracy_tables)


@bench.command("run-cost")
def run_cost(
    optimizers: Annotated[Path, typer.Option(help="Records of `bench optimizers`.")],
    iteration: Annotated[list[Path], typer.Option(help="Records of `bench iteration`; can be repeated.")],
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Hours and bytes of a whole run: evaluations that an optimizer needs, times the cost of one."""
    records = _read((optimizers, *iteration))
    _measure(lambda _: run_cost_cases(records), json, quiet, run_cost_tables)


@bench.command()
def report(
    json: Annotated[list[Path], typer.Option("--json", help="A file of records; can be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for report.md and its figures.")],
) -> None:
    """Tables and figures of all records in some files."""
    for path in write_report(_read(json), out):
        Console(markup=False).print(str(path), soft_wrap=True, highlight=False)


def _read(paths: Iterable[Path]) -> list[Record]:
    """The records of some files, each file once."""
    return [record for path in dict.fromkeys(paths) for record in read_records(path)]


def _known(text: str, known: Iterable[Name], option: str) -> list[Name]:
    """Names with commas between them, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    by_name: dict[str, Name] = {name: name for name in known}
    if strangers := [name for name in names if name not in by_name]:
        raise ConfigError(f"{option} {strangers[0] or repr(text)}: must be some of {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _counts(text: str) -> list[int]:
    """Numbers with commas between them, each once."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1 or max(numbers) > LARGEST:
        raise ConfigError(f"{text!r} must be whole numbers from 1 to 10^12 with commas between them, such as 64,128")
    return list(dict.fromkeys(numbers))


def _measure(
    cases: Callable[[Progress], Iterable[Case]],
    json: Path | None,
    quiet: bool,
    *tables: Callable[[list[Record]], list[Table]],
) -> None:
    """Measure what is not in the file yet, and print tables of all that was asked for."""
    console = Console(quiet=quiet)
    progress: Progress = Progress() if quiet else TerminalProgress(console)
    file = RecordFile(json)
    try:
        records = measure_all(cases(progress), file, progress)
    finally:
        progress.close()
    for make in tables:
        for table in make(records):
            show(console, table)
    if json:
        console.print(f"records in {json}", soft_wrap=True, markup=False)


def show(console: Console, table: Table) -> None:
    """Print a table, as wide as it takes: nothing in it is cut or broken; figures stand right."""
    shown = RichTable(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(table.columns):
        shown.add_column(Text(name), justify="left" if number < table.words else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    needed = console.measure(shown, options=console.options.update(max_width=WIDEST)).maximum
    Console(width=max(console.width, needed), quiet=console.quiet).print(shown)
    for note in table.notes:
        console.print(note, style="dim", highlight=False, markup=False)
