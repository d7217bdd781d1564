"""The section `tuning` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secp_spu.config.section import Count, Located, Section, locate
from secp_spu.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    OptimizerKind = str
else:
    OptimizerKind = Literal[tuple(OPTIMIZERS)]
    """A name of `OPTIMIZERS`."""


class InitialPromptSection(Section):
    """Where tuning starts: p0 in p = A z + p0. One of the keys, or none for the embeddings of randomly drawn words.

    Attributes:
        words: a text, whose tokens are repeated until there are enough.
        run: the folder of an earlier run on the same model, whose tuned prompt it is.
        peft: the folder of a PEFT adapter for prompt tuning on the same model.
    """

    words: str | None = None
    run: Located | None = None
    peft: Located | None = None

    @field_validator("run", "peft", mode="before")
    @classmethod
    def _find(cls, value: str | None, info: ValidationInfo) -> Path | None:
        return None if value is None else locate(value, info, "data_owner")

    @model_validator(mode="after")
    def _check(self) -> InitialPromptSection:
        if len(named := [key for key, value in self if value is not None]) > 1:
            raise ValueError(f"tuning.initial_prompt: names {' and '.join(named)}: write one of them alone")
        return self


class TuningSection(Section):
    """Forward-only tuning.

    Attributes:
        optimizer: "cma" (CMA-ES); "sep-cma" (its separable kind); "xnes" (natural evolution strategies); "de"
            (differential evolution); "spsa"; "random" (search); "gauss-newton": steps on all logits, not on losses.
        prompt_tokens: vectors of the soft prompt.
        initial_prompt: `random`, or a section that says where p0 comes from. It is the data owner's secret.
        intrinsic_dim: length of z in p = A z + p0.
        population: candidates a generation.
        generations: how many; a run can be resumed with more.
        loss: of the logits of the label words.
        sigma: the first generation's standard deviation, or length of its steps.
        alpha: scales A, whose entries have the standard deviation alpha * sd(word embeddings) / (sqrt(d) * sigma).
        candidates_per_call: candidates in one forward pass; by default as many as fit half the memory that is free at
            the compute party that has the least. Where a pass would not fit, texts are split too.
        seed: of the few-shot draw, p0, A and the optimizer; masks are never seeded. Who knows it knows the first
            generation's prompts, so in a cluster it is the data owner's secret, which by default draws one and keeps it
            in its checkpoint.
    """

    optimizer: OptimizerKind = "cma"
    prompt_tokens: Count
    initial_prompt: InitialPromptSection = InitialPromptSection()
    intrinsic_dim: Annotated[int, Field(ge=2, le=10_000)]
    population: Annotated[int, Field(ge=4, le=10_000)]
    generations: Count
    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    candidates_per_call: Count | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("initial_prompt", mode="before")
    @classmethod
    def _read_initial_prompt(cls, value: object) -> object:
        if isinstance(value, str) and value != "random":
            raise ValueError(f"is {value!r}, but must be random, {{words: TEXT}}, {{run: FOLDER}} or {{peft: FOLDER}}")
        return {} if value == "random" else value

    @model_validator(mode="after")
    def _check_population(self) -> TuningSection:
        least = OPTIMIZERS[self.optimizer].least_population
        if self.population < least:
            raise ValueError(
                f"tuning.population: is {self.population}, but the optimizer {self.optimizer} takes {least} or more"
            )
        return self
