"""`secp-spu adapt`: parses and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secp_spu.adaptation.folder import RECIPE
from secp_spu.adaptation.training import Recipe
from secp_spu.adaptation.training import adapt as run_adaptation
from secp_spu.cli.terminal import Interrupted, QuietOption, ResumeOption, TerminalProgress
from secp_spu.errors import ConfigError
from secp_spu.model.activation import learned_activations
from secp_spu.model.hub.config_json import EXTRAS
from secp_spu.progress import Progress

ACTIVATIONS = learned_activations()


def adapt(
    model: Annotated[Path, typer.Option(help="Folder of a checkpoint with softmax attention.", show_default=False)],
    corpus: Annotated[Path, typer.Option(help="Text file, one text a line.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the adapted checkpoint.", show_default=False)],
    activation: Annotated[
        str | None,
        typer.Option(metavar=f"[{'|'.join(ACTIVATIONS)}]", help="What takes the place of GELU. By default GELU stays."),
    ] = None,
    features: Annotated[
        int, typer.Option(min=1, max=EXTRAS["features"][1], help="Number of frequencies of a head.")
    ] = Recipe.features,
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = Recipe.steps,
    rate: Annotated[float, typer.Option(min=1e-9, max=1, help="Peak learning rate.")] = Recipe.rate,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Number of tokens in a gradient, padding included.")
    ] = Recipe.batch_tokens,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Number of gradients whose mean a step takes.")
    ] = Recipe.accumulate,
    max_tokens: Annotated[
        int, typer.Option(min=2, help="Number of tokens at which a text is cut.")
    ] = Recipe.max_tokens,
    prompt_tokens: Annotated[
        int, typer.Option(min=0, help="Number of random tokens before every other text, in the place of a soft prompt.")
    ] = Recipe.prompt_tokens,
    seed: Annotated[
        int, typer.Option(min=0, max=EXTRAS["feature_seed"][1], help="Seed of all that is drawn.")
    ] = Recipe.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Number of steps between two measurements.")] = Recipe.every,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adapt a pre-trained model to cheap attention, in plaintext. It is the model owner's own step."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ConfigError(f"`activation` {activation}: the model can be adapted to {' or '.join(ACTIVATIONS)}")
    recipe = Recipe(
        model=model,
        corpus=corpus,
        features=features,
        activation=activation,
        steps=steps,
        rate=rate,
        batch_tokens=batch_tokens,
        accumulate=accumulate,
        max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
        seed=seed,
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
