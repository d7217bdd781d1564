"""The commands: they parse and print, and leave everything else to the package."""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secp_spu.api import DEMO_CONFIG
from secp_spu.auditing import AuditError
from secp_spu.cli.adapt_command import adapt
from secp_spu.cli.audit_command import audit
from secp_spu.cli.bench_commands import bench
from secp_spu.cli.config_commands import init, show_config
from secp_spu.cli.prompt_commands import export, predict
from secp_spu.cli.terminal import (
    ConfigOption,
    Interrupted,
    QuietOption,
    ResumeOption,
    SetOption,
    TerminalProgress,
    help_without_command,
    show_costs,
    start_runtime,
    with_options,
)
from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.model import CheckpointError, save_embeddings
from secp_spu.progress import Progress
from secp_spu.runtime.secretflow.ray_processes import end_ray_processes, ray_was_started
from secp_spu.tuning import RunRecord, open_run
from secp_spu.tuning.record import FILE_NAME as CHECKPOINT
from secp_spu.tuning.run_report import RunReport
from secp_spu.tuning.whole_run import run_tuning

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tune a soft prompt on private texts for a private model, under MPC.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"secp-spu {version('secp-spu')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    show_version: Annotated[  # noqa: ARG001 - its callback reads it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Take what goes before a command."""
    help_without_command(context)


app.add_typer(bench, name="bench")
app.command()(adapt)
app.command()(audit)
app.command()(predict)
app.command()(export)
app.command()(init)
app.command("config")(show_config)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the outputs.")] = Path("runs/demo"),
    settings: SetOption = [],  # noqa: B006 - typer's way
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a prompt for the shipped tiny model, under ABY3. All three parties are in this process."""
    _tune(load_config(DEMO_CONFIG, settings), out, resume=resume, quiet=quiet)


@app.command()
def tune(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the outputs; it belongs to one run.")],
    settings: SetOption = [],  # noqa: B006
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a soft prompt as a configuration says."""
    _tune(load_config(config, settings), out, resume=resume, quiet=quiet)


@app.command()
def party(
    config: ConfigOption,
    name: Annotated[str, typer.Option("--party", help="Which party of the cluster this process is.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the outputs; the data owner needs it.")] = None,
    settings: SetOption = [],  # noqa: B006
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Be one party of a cluster that tunes a prompt. Each party starts this on its own machine."""
    loaded = load_config(config, settings, party=name)
    cluster = loaded.cluster
    if cluster is None:
        raise ConfigError(f"--party {name}: {config} has no `cluster`")
    if cluster.data_owner != name:
        if out or resume:
            raise ConfigError(f"--out and --resume are for {cluster.data_owner} alone, who has the outputs")
        out = Path()
    elif out is None:
        raise ConfigError(f"--out is missing: {name} is the data owner, who gets the outputs")
    _tune(loaded, out, resume=resume, quiet=quiet, party=name)


@app.command()
def embeddings(
    model: Annotated[Path, typer.Option(help="The model owner's Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write, for the data owner.")],
) -> None:
    """Write what a data owner needs of the model. These are config, tokenizer and embedding tables."""
    save_embeddings(model, out)
    Console().print(
        f"{out}: config.json, tokenizer.json, and model.safetensors with the embedding tables alone", soft_wrap=True
    )


def _tune(config: Config, out: Path, *, resume: bool, quiet: bool, party: str | None = None) -> None:
    console = Console(quiet=quiet)
    at_home = party is None or (config.cluster is not None and config.cluster.data_owner == party)
    if at_home:
        open_run(out, config, resume=resume)  # what is wrong with it is said before anything starts
    with start_runtime(console, config, party, "tuning") as runtime:
        progress: Progress = Progress() if quiet else TerminalProgress(console)
        try:
            run_tuning(runtime, config, out, resume=resume, progress=progress, party=party)
        except KeyboardInterrupt:
            raise Interrupted(_how_to_go_on(out) if at_home else "interrupted") from None
    if at_home:
        _summarise(console, json.loads((out / "report.json").read_text(encoding="utf-8")), out)
    else:
        console.print("done; the outputs are with the data owner")


def _how_to_go_on(out: Path) -> str:
    if not (out / CHECKPOINT).exists():
        return "interrupted before the run began"
    return f"interrupted after generation {len(RunRecord.load(out).generations)}; go on with --resume --out {out}"


def _summarise(console: Console, report: RunReport, out: Path) -> None:
    made = len(report["loss"])
    generations = f"{made} generation{'s' if made > 1 else ''}"
    show_costs(console, report["ledger"])
    console.print(
        f"accuracy on unseen texts: {report['accuracy_before']:.3f} untuned, "
        f"[bold]{report['accuracy_after']:.3f}[/bold] tuned, after {generations} "
        f"({report['forward_calls']} evaluations of a prompt) in {report['seconds']:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"outputs in {out}: report.json, prompt.safetensors, config.yaml, loss.png, costs.png, checkpoint.json",
        soft_wrap=True,
    )


def main() -> None:
    """Run a command: exit 0 on success, 2 with one line on bad input, 1 on failure."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        sys.exit(app(prog_name="secp-spu", standalone_mode=False))
    except typer.Abort:
        _end("error: interrupted", 1)
    except typer.TyperException as error:
        _end(_misused(error), 2)
    except (ConfigError, CheckpointError, FileExistsError) as error:
        _end(f"error: {error}", 2)
    except (AuditError, Interrupted, OSError) as error:
        _end(f"error: {error}", 1)
    except RuntimeFailure as error:
        # Parties that still wait for the failed one hold C++ threads, which an orderly exit would abort on.
        _end(f"error: {error}", 1, at_once=True)


def _misused(error: typer.TyperException) -> str:
    """One line for a command line that is not understood."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "secp-spu"
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return f"error: {message}: see {command} --help"


def _end(message: str, status: int, *, at_once: bool = False) -> None:
    print(" ".join(with_options(message).split()), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if ray_was_started():
        end_ray_processes()
    if at_once or ray_was_started():  # threads that wait for other parties would keep an orderly exit waiting too
        os._exit(status)
    sys.exit(status)
