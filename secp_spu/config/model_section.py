"""The section `model` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secp_spu.config.section import Located, Section, locate
from secp_spu.protocol.gelu import LIMITS, TERMS


class ModelSection(Section):
    """The model owner's model.

    Attributes:
        folder: a Hugging Face folder, or `package:NAME/FOLDER` inside an installed Python package.
        head: "label_words": the language-model head's logits of a word for each label; "label_embeddings": similarity
            to a text that describes each label, for encoders without such a head.
        activation: of the feed-forward layers. "checkpoint": what it was made for; or "gelu", "gelu_tanh" (off by 5e-4
            at most and five times cheaper), "relu", "series" (GELU up to `activation_range`, much cheaper still) or
            "quadratic", which the checkpoint must have been adapted to.
        activation_range: of "series", the largest |x| before it; by default the checkpoint's. Beyond it a series is
            wrong, and there is no comparison that would catch it.
        activation_terms: of "series", how many: more take more correlations and are nearer to GELU; by default the
            checkpoint's, or 5.
        force_activation: take another activation than the checkpoint was adapted to.
        embedding: "data_owner": it has the embedding tables, and embeds its texts and prompts at home; "private": the
            tables stay with the model owner, and tokens are looked up under MPC, once a text. The data owner then needs
            config.json and tokenizer.json alone.
    """

    folder: Located
    head: Literal["label_words", "label_embeddings"] = "label_words"
    activation: Literal["checkpoint", "gelu", "gelu_tanh", "relu", "series", "quadratic"] = "checkpoint"
    activation_range: Annotated[float, Field(ge=LIMITS[0], le=LIMITS[1])] | None = None
    activation_terms: Annotated[int, Field(ge=TERMS[0], le=TERMS[1])] | None = None
    force_activation: bool = False
    embedding: Literal["data_owner", "private"] = "data_owner"

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
