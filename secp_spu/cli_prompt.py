"""What is done with a tuned prompt: `secp-spu predict` and `secp-spu export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from secp_spu.config import Config, ConfigError
from secp_spu.model import is_function
from secp_spu.terminal import Interrupted, QuietOption, SetOption, TerminalProgress, costs_table
from secp_spu.tuning import (
    DATA_OWNER,
    ModelOwner,
    Predictor,
    Progress,
    export_peft,
    load_run,
    make_runtime,
    refuse_existing,
)
from secp_spu.tuning import predict as run_prediction

RunOption = Annotated[Path, typer.Option("--run", help="Folder of a run of secp-spu tune.", show_default=False)]


def predict(
    run: RunOption,
    texts: Annotated[Path, typer.Option(help="JSON lines with the fields of the run's template; no labels.")],
    out: Annotated[Path, typer.Option(help="File for the results: JSON lines with `label` and `scores`.")],
    settings: SetOption = [],  # noqa: B006 - typer's way
    quiet: QuietOption = False,
) -> None:
    """Label new texts with a tuned prompt, under MPC: labels and scores are the data owner's alone."""
    config = load_run(run, settings)
    refuse_existing(out)  # what is wrong with it is said before anything starts
    if config.cluster and config.cluster.addresses:
        raise ConfigError(
            "cluster.addresses name a machine for each party, but secp-spu predict runs on one machine: to try it "
            "there, where it protects nothing, add --set cluster=null"
        )
    _predict(config, run, texts, out, Console(quiet=quiet))


def _predict(config: Config, run: Path, texts: Path, out: Path, console: Console) -> None:
    with make_runtime(config) as runtime:
        progress: Progress = Progress() if console.quiet else TerminalProgress(console)
        try:
            files = (path.absolute() for path in (run, texts, out))
            predictor = runtime.actor(DATA_OWNER, Predictor, config, *files)
            run_prediction(runtime, config, predictor, runtime.actor("model_owner", ModelOwner, config), progress)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {out} is not written, call it again") from None
        finally:
            progress.close()
        console.print(costs_table(runtime.ledger.report()))
    console.print(f"labels and scores in {out}", soft_wrap=True)


def export(
    run: RunOption,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[Literal["peft"], typer.Option(help="Of Hugging Face PEFT: a PROMPT_TUNING adapter.")] = "peft",
) -> None:
    """Write a tuned prompt for use elsewhere: as an adapter that Hugging Face PEFT loads."""
    del format  # there is one
    encoder = export_peft(run, out)
    console = Console()
    console.print(
        f"{out}: adapter_config.json and adapter_model.safetensors, for peft.PeftModel.from_pretrained", soft_wrap=True
    )
    unknown = [f"attention {encoder.attention}"] if encoder.attention != "softmax" else []
    if not is_function(encoder.activation):
        unknown.append(f"activation {encoder.activation}")
    if unknown:
        console.print(
            f"note: the prompt was tuned with {' and '.join(unknown)}, which transformers does not know: it computes "
            "with what it has instead, where the prompt may do less",
            soft_wrap=True,
        )
