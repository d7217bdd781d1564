"""The section `model` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secp_spu.config.section import OWN, Section, locate
from secp_spu.model import ACTIVATIONS
from secp_spu.protocol.gelu import LIMITS, TERMS

if TYPE_CHECKING:
    ActivationChoice = str
else:
    ActivationChoice = Literal[("checkpoint", *ACTIVATIONS)]
    """"checkpoint", or a name of `ACTIVATIONS`."""


class ModelSection(Section):
    """A transformer in a Hugging Face folder, and how it is computed."""

    folder: Annotated[Path, OWN] = Field(
        description="The folder of the model in Hugging Face's form. "
        "The model owner needs `config.json`, `tokenizer.json` and `model.safetensors` or its shards. "
        "The data owner needs the folder that `secp-spu embeddings` writes, with only the tokenizer and the embedding "
        "tables. Other parties need none.",
    )
    head: Literal["label_words", "label_embeddings"] = Field(
        default="label_words",
        description="How the model scores the labels. "
        "`label_words`: the logit of a word for each label, from the language-model head. "
        "`label_embeddings`: the similarity of the pooled embedding to a text that describes each label, for encoders "
        "without a language-model head.",
    )
    activation: ActivationChoice = Field(
        default="checkpoint",
        description="The activation of the feed-forward layers. "
        "`checkpoint`: the activation that the checkpoint was trained or adapted with. "
        + " ".join(f"`{name}`: {activation.about}." for name, activation in ACTIVATIONS.items()),
    )
    activation_range: float | None = Field(
        default=None,
        ge=LIMITS[0],
        le=LIMITS[1],
        description="The largest absolute input for which the activation `series` is right. "
        "By default the range that the checkpoint was adapted to. Beyond the range the series is wrong, and nothing "
        "detects it.",
    )
    activation_terms: int | None = Field(
        default=None,
        ge=TERMS[0],
        le=TERMS[1],
        description="Number of terms of the activation `series`. "
        "More terms are closer to GELU and spend more correlations. By default as many as the checkpoint was adapted "
        "to, or 5.",
    )
    force_activation: bool = Field(
        default=False,
        description="Whether another activation may be used than the checkpoint was adapted to. "
        "Otherwise another activation is refused.",
    )
    reveal: Literal["logits", "gradients"] = Field(
        default="logits",
        description="What the model owner lets the data owner see of its texts' way through the model. "
        "`logits`: the logits of the labels. `gradients`: also the derivative of the data owner's loss by the soft "
        "prompt, tuning.prompt_tokens * width numbers a step, which depend on all weights of the layers. Gradient "
        "optimizers need it. All parties must have the same, and none opens a gradient without it.",
    )
    embedding: Literal["data_owner", "private"] = Field(
        default="data_owner",
        description="Who has the embedding tables. "
        "`data_owner`: the data owner has them too, and embeds its texts and prompts in plaintext. "
        "`private`: the model owner keeps them, and tokens are looked up under MPC, once for each text. The data owner "
        "then needs only `config.json` and `tokenizer.json`.",
    )

    @field_validator("folder", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        return locate(value, info, "data_owner", "model_owner")

    @model_validator(mode="after")
    def _check(self) -> ModelSection:
        for key in ("activation_range", "activation_terms"):
            if getattr(self, key) is not None and self.activation != "series":
                raise ValueError(
                    f"model.{key}: is {getattr(self, key)}, but only series has one and model.activation is "
                    f"{self.activation}: leave it out, or set model.activation: series"
                )
        return self
