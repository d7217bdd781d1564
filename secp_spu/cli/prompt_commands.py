"""What is done with a tuned prompt: `secp-spu predict` and `secp-spu export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from secp_spu.cli.terminal import Interrupted, QuietOption, SetOption, TerminalProgress, show_costs, start_runtime
from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError
from secp_spu.model import attention_class, is_function
from secp_spu.progress import Progress
from secp_spu.tuning import export_peft, load_run, refuse_existing
from secp_spu.tuning.whole_run import run_prediction

RunOption = Annotated[Path, typer.Option("--run", help="Folder of a run of secp-spu tune.", show_default=False)]


def predict(
    run: Annotated[Path | None, typer.Option(help="Folder of a run of secp-spu tune.", show_default=False)] = None,
    texts: Annotated[
        Path | None, typer.Option(help="JSON lines with the fields of the run's template.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the results: JSON lines with `label` and `scores`.", show_default=False),
    ] = None,
    party: Annotated[
        str | None, typer.Option("--party", help="Which party of the run's cluster this process is.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The cluster's YAML file, for parties that do not have the run.")
    ] = None,
    settings: SetOption = [],  # noqa: B006 - typer's way
    quiet: QuietOption = False,
) -> None:
    """Label new texts with a tuned prompt, under MPC. Labels and scores are the data owner's alone."""
    console = Console(quiet=quiet)
    if config is not None:
        _predict(_for_others(config, party, settings, run or texts or out), None, party, console)
        return
    if run is None or texts is None or out is None:
        missing = next(name for name, path in (("--run", run), ("--texts", texts), ("--out", out)) if path is None)
        raise ConfigError(f"{missing} is missing; a party of a cluster that has no run gives --config and --party")
    loaded = _for_owner(run, party, settings)
    refuse_existing(out)  # what is wrong with it is said before anything starts
    _predict(loaded, (run, texts, out), party, console)


def _for_owner(run: Path, party: str | None, settings: list[str]) -> Config:
    """The configuration for who has the run."""
    config = load_run(run, settings, party=party)
    cluster = config.cluster
    if party is None and cluster and cluster.addresses:
        raise ConfigError(
            f"--party is missing: cluster.addresses name a machine for each party, and {cluster.data_owner} has the run"
        )
    if party is not None and cluster is None:
        raise ConfigError(f"--party {party}: the run in {run} has no `cluster`")
    if party is not None and cluster and party != cluster.data_owner:
        raise ConfigError(
            f"--party {party}: the run is {cluster.data_owner}'s, the others give --config instead of --run"
        )
    return config


def _for_others(config: Path, party: str | None, settings: list[str], given: Path | None) -> Config:
    """The configuration for a party that has no run."""
    if party is None:
        raise ConfigError(f"--party is missing: which party of {config} this process is")
    loaded = load_config(config, settings, party=party)
    if loaded.cluster is None:
        raise ConfigError(f"--party {party}: {config} has no `cluster`")
    owner = loaded.cluster.data_owner
    if party == owner:
        raise ConfigError(f"--config is for the others: {owner} is the data owner, who gives --run, --texts and --out")
    if given is not None:
        raise ConfigError(f"--run, --texts and --out are for {owner} alone, who has them")
    return loaded


def _predict(config: Config, files: tuple[Path, Path, Path] | None, party: str | None, console: Console) -> None:
    """Predict; files are the data owner's run, texts and results, None at the other parties of a cluster."""
    with start_runtime(console, config, party, "prediction") as runtime:
        progress: Progress = Progress() if console.quiet else TerminalProgress(console)
        try:
            run, texts, out = (path.absolute() for path in files or (Path(),) * 3)
            run_prediction(runtime, config, run, texts, out, progress=progress, party=party)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {files[2]} is not written, call it again" if files else "interrupted"
            ) from None
        if files:
            show_costs(console, runtime.ledger.report())
    console.print(
        f"labels and scores in {files[2]}" if files else "done; the outputs are with the data owner", soft_wrap=True
    )


def export(
    run: RunOption,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[
        Literal["peft"], typer.Option(help="The format to write: a PROMPT_TUNING adapter of Hugging Face PEFT.")
    ] = "peft",
) -> None:
    """Write a tuned prompt as an adapter for Hugging Face PEFT."""
    del format  # there is one
    transformer = export_peft(run, out)
    console = Console()
    console.print(
        f"{out}: adapter_config.json and adapter_model.safetensors, for peft.PeftModel.from_pretrained", soft_wrap=True
    )
    unknown = [f"attention {transformer.attention}"] if attention_class(transformer).adapted else []
    if not is_function(transformer.activation):
        unknown.append(f"activation {transformer.activation}")
    if unknown:
        console.print(
            f"note: the prompt was tuned with {' and '.join(unknown)}, which transformers does not know. "
            "transformers uses its own attention and activation instead, and the prompt may be less accurate there",
            soft_wrap=True,
        )
