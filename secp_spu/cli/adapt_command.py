"""`secp-spu adapt`: parses and prints."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from secp_spu.adaptation.folder import RECIPE
from secp_spu.adaptation.training import Recipe
from secp_spu.adaptation.training import adapt as run_adaptation
from secp_spu.cli.terminal import Interrupted, QuietOption, ResumeOption, TerminalProgress
from secp_spu.model.hub.config_json import EXTRAS
from secp_spu.progress import Progress


class Activation(str, Enum):
    """What may stand for GELU."""

    series = "series"
    quadratic = "quadratic"


INSTEAD: dict[Activation, Literal["series", "quadratic"]] = {
    Activation.series: "series",
    Activation.quadratic: "quadratic",
}
"""What a recipe calls them."""


def adapt(
    model: Annotated[Path, typer.Option(help="Folder of a checkpoint with softmax attention.", show_default=False)],
    corpus: Annotated[Path, typer.Option(help="Text file, one text a line.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the adapted checkpoint.", show_default=False)],
    activation: Annotated[Activation | None, typer.Option(help="Instead of GELU; the model's own without.")] = None,
    features: Annotated[
        int, typer.Option(min=1, max=EXTRAS["features"][1], help="Frequencies a head, for cosine and sine.")
    ] = Recipe.features,
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    rate: Annotated[float, typer.Option(min=1e-9, max=1, help="Peak learning rate.")] = Recipe.rate,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a gradient, with padding.")] = Recipe.batch_tokens,
    accumulate: Annotated[int, typer.Option(min=1, help="Gradients of a step.")] = Recipe.accumulate,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of a text; what is longer is cut.")] = Recipe.max_tokens,
    prompt_tokens: Annotated[
        int, typer.Option(min=0, help="Random ones before every other text, as a soft prompt will be.")
    ] = Recipe.prompt_tokens,
    seed: Annotated[int, typer.Option(min=0, max=EXTRAS["feature_seed"][1])] = Recipe.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = Recipe.every,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give a pre-trained model attention by features, by distillation in plaintext: the model owner's own step."""
    kind = INSTEAD[activation] if activation else None
    recipe = Recipe(
        model,
        corpus,
        features,
        kind,
        steps,
        rate,
        batch_tokens,
        accumulate,
        max_tokens,
        prompt_tokens,
        seed,
        bf16=bf16,
        every=every,
    )
    console = Console(quiet=quiet)
    progress: Progress = Progress() if quiet else TerminalProgress(console)
    try:
        done = run_adaptation(recipe, out, resume=resume, progress=progress)
    except KeyboardInterrupt:
        progress.close()
        raise Interrupted(_how_to_go_on(out)) from None
    finally:
        progress.close()
    console.print(
        f"{'finished before: ' if done.was_finished else ''}similarity to the teacher on held-out lines "
        f"{done.similarity:.4f}, behind random prompts {done.prompted:.4f}; checkpoint in {out}",
        soft_wrap=True,
    )


def _how_to_go_on(out: Path) -> str:
    began = (out / RECIPE).exists()
    return f"interrupted; go on with --resume --out {out}" if began else "interrupted before the run began"
