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
from pydantic.json_schema import JsonSchemaValue

from secp_spu.config.section import OWN, Count, Section, locate
from secp_spu.optimizers import GRADIENT_OPTIMIZERS, OPTIMIZERS, Schedule

if TYPE_CHECKING:
    OptimizerKind = str
else:
    OptimizerKind = Literal[(*OPTIMIZERS, *GRADIENT_OPTIMIZERS)]
    """A name of `OPTIMIZERS` or `GRADIENT_OPTIMIZERS`."""

SEARCH_KEYS = ("population", "sigma", "candidates_per_call")
"""Keys that gradient-free optimizers alone have a use for."""

PROJECTION_KEYS = ("intrinsic_dim", "alpha")
"""Keys of p = A z + p0, which a gradient's steps on the prompt itself have no use for."""

DESCENT_KEYS = ("rate", "schedule", "space")
"""Keys that gradient optimizers alone have a use for."""


class InitialPromptSection(Section):
    """One key that names the source of p0, in p = A z + p0.

    Without this section, or with `random` in its place, p0 is the embeddings of randomly drawn words.
    """

    words: str | None = Field(
        default=None,
        description="A text to start from. Its tokens are repeated until there are `tuning.prompt_tokens` of them.",
    )
    run: Path | None = Field(
        default=None,
        description="The folder of an earlier run on the same model, whose tuned prompt is the start.",
    )
    peft: Path | None = Field(
        default=None,
        description="The folder of a PEFT adapter of prompt tuning for the same model.",
    )

    @field_validator("run", "peft", mode="before")
    @classmethod
    def _find(cls, value: str | None, info: ValidationInfo) -> Path | None:
        return None if value is None else locate(value, info, "data_owner")

    @model_validator(mode="after")
    def _check(self) -> InitialPromptSection:
        if len(named := [key for key, value in self if value is not None]) > 1:
            raise ValueError(f"tuning.initial_prompt: names {' and '.join(named)}: write one of them alone")
        return self


def _or_random(schema: JsonSchemaValue) -> None:
    """Say in a key's JSON schema that the word random may stand in place of the section."""
    section = {"$ref": schema.pop("$ref")}
    schema |= {"anyOf": [{"const": "random", "type": "string"}, section], "default": "random"}


class TuningSection(Section):
    """How the prompt is tuned: with forward passes only, or with gradients.

    A gradient-free optimizer of the data owner's proposes points z of a low-dimensional space. Each point is a soft
    prompt p = A z + p0, with a random matrix A that stays the same. The model is evaluated with the prompts under MPC,
    and the optimizer learns from the losses.

    A gradient optimizer has one prompt, and a generation is one step. After a forward pass the data owner computes the
    loss and its derivative by the logits at home, and a backward pass under MPC leads it to the prompt's derivative.
    With `momentum` that stays in shares, and the data owner sees logits alone, and its tuned prompt. With `adam` and
    `sgd` it sees the derivative, which takes `model.reveal: gradients`.
    """

    optimizer: OptimizerKind = Field(
        default="cma",
        description="The optimizer that proposes prompts. "
        + " ".join(f"`{name}`: {optimizer.about}." for name, optimizer in OPTIMIZERS.items())
        + " With gradients: "
        + " ".join(f"`{name}`: {optimizer.about}." for name, optimizer in GRADIENT_OPTIMIZERS.items()),
    )
    prompt_tokens: Count = Field(description="Number of vectors in the soft prompt that stands before each text.")
    initial_prompt: Annotated[InitialPromptSection, OWN] = Field(
        default=InitialPromptSection(),
        json_schema_extra=_or_random,
        description="The prompt p0 from which tuning starts. `random`, or a section that names a text, a run or an "
        "adapter. It is the data owner's secret; other parties of a cluster need not know it.",
    )
    intrinsic_dim: int | None = Field(
        default=None,
        ge=2,
        le=10_000,
        description="The number of dimensions that the optimizer searches: the length of z in p = A z + p0. "
        "Required, but for gradient optimizers with `space: prompt`.",
    )
    population: int | None = Field(
        default=None,
        ge=4,
        le=10_000,
        description="Number of prompts that a gradient-free optimizer proposes in each generation, which requires it. "
        "Each of them is evaluated on all training texts. Gradient optimizers have one prompt.",
    )
    generations: Count = Field(
        description="Number of generations, or of a gradient optimizer's steps. A finished run can be resumed with "
        "more of them, unless `schedule` depends on their number.",
    )
    validate_every: Count = Field(
        default=1,
        description="Number of generations from one evaluation on the validation texts to the next. The last "
        "generation always has one. It stays the same for a run.",
    )
    patience: Count | None = Field(
        default=None,
        description="Number of evaluations on the validation texts without a better loss after which tuning stops. "
        "A loss is better if it is smaller by more than 0.001. All parties learn that tuning stopped. By default it "
        "does not. The number stays the same for a run.",
    )
    rate: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Learning rate of a gradient optimizer. It is for prompts in standard deviations of the word "
        "embeddings, or with `space: intrinsic` for z. "
        "By default " + ", ".join(f"{o.usual_rate:g} for `{name}`" for name, o in GRADIENT_OPTIMIZERS.items()) + ".",
    )
    schedule: Schedule = Field(
        default="constant",
        description="How the learning rate goes from step to step. `constant`: not at all. `cosine`: down to zero.",
    )
    space: Literal["prompt", "intrinsic"] = Field(
        default="prompt",
        description="What a gradient optimizer moves. `prompt`: the prompt's vectors. `intrinsic`: z in p = A z + p0; "
        "not for `momentum`.",
    )
    loss: Literal["cross_entropy", "hinge"] = Field(
        default="cross_entropy",
        description="The loss that the data owner computes from the logits of the labels. "
        "`cross_entropy`: cross entropy. `hinge`: hinge loss against the largest logit of another label.",
    )
    sigma: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="The standard deviation of z in the first generation, or the length of the first steps of `spsa` "
        "and `gauss-newton`. A shrinks as sigma grows, so sigma alone does not widen the search: see `alpha`.",
    )
    alpha: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="How widely the first generation searches around p0. The entries of A have the standard deviation "
        "alpha * sd(word embeddings) / (sqrt(intrinsic_dim) * sigma). Raise alpha if all losses are alike. With "
        "gradients and `space: intrinsic` it is a factor of every step.",
    )
    candidates_per_call: Count | None = Field(
        default=None,
        description="Number of prompts in one forward pass. "
        "By default as many as fit half of the memory that is free at the compute party that has the least. "
        "If one prompt does not fit with all texts, the texts are split too.",
    )
    seed: Annotated[int | None, OWN] = Field(
        default=None,
        ge=0,
        description="Seed of the drawn examples, p0, A and the optimizer. Masks are never seeded. "
        "Who knows the seed knows the prompts of the first generation, so in a cluster it is the data owner's secret. "
        "By default the data owner draws a seed and keeps it in its checkpoint.",
    )

    @field_validator("initial_prompt", mode="before")
    @classmethod
    def _read_initial_prompt(cls, value: object) -> object:
        if isinstance(value, str) and value != "random":
            raise ValueError(f"is {value!r}, but must be random, {{words: TEXT}}, {{run: FOLDER}} or {{peft: FOLDER}}")
        return {} if value == "random" else value

    @model_validator(mode="after")
    def _check_keys(self) -> TuningSection:
        if self.uses_gradients:
            projects = self.space == "intrinsic" and self.opens_gradients
            unused: tuple[str, ...] = SEARCH_KEYS if projects else (*SEARCH_KEYS, *PROJECTION_KEYS)
            unused += () if self.opens_gradients else ("space",)
            needed: tuple[str, ...] = ("intrinsic_dim",) if projects else ()
        else:
            unused, needed = DESCENT_KEYS, ("population", "intrinsic_dim")
        defaults = {key: type(self).model_fields[key].default for key in unused}
        if given := {key: value for key, value in defaults.items() if getattr(self, key) != value}:
            first, *more = (f"tuning.{key}" for key in given)
            also = f" (and so are {', '.join(more)})" if more else ""
            usual = ", ".join(f"{key}={'null' if value is None else value}" for key, value in given.items())
            raise ValueError(
                f"{first}: is given{also}, but the optimizer {self.optimizer} has no use for it: leave it out, which "
                f"means {usual}"
            )
        for key in needed:
            if getattr(self, key) is None:
                raise ValueError(f"tuning.{key}: is missing, but the optimizer {self.optimizer} needs it")
        return self

    @model_validator(mode="after")
    def _check_population(self) -> TuningSection:
        least = OPTIMIZERS[self.optimizer].least_population if not self.uses_gradients else 1
        if self.candidates < least:
            raise ValueError(
                f"tuning.population: is {self.population}, but the optimizer {self.optimizer} takes {least} or more"
            )
        return self

    @property
    def uses_gradients(self) -> bool:
        """Whether the optimizer steps along the prompt's gradient, seen or unseen."""
        return self.optimizer in GRADIENT_OPTIMIZERS

    @property
    def opens_gradients(self) -> bool:
        """Whether the data owner sees the prompt's gradient."""
        return self.uses_gradients and GRADIENT_OPTIMIZERS[self.optimizer].opens

    @property
    def hides_gradients(self) -> bool:
        """Whether the prompt's gradient stays in shares."""
        return self.uses_gradients and not self.opens_gradients

    @property
    def candidates(self) -> int:
        """How many prompts a generation has."""
        return self.population or 1

    def is_validated(self, generation: int) -> bool:
        """Whether a generation, counted from 1, is followed by an evaluation on the validation texts."""
        return generation % self.validate_every == 0 or generation == self.generations
