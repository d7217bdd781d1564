"""The section `task` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from secp_spu.config.section import Count, Located, Section, locate


class TaskSection(Section):
    """The data owner's task.

    Attributes:
        pool: JSON lines with `label` and the template's fields; training and validation examples are drawn from it.
        test: the same, for accuracy only.
        template: what the model reads: fields of the examples in braces, and {mask} for the label-word head; the end of
            a decoder's.
        labels: label -> label word, or text that describes it.
        shots: training examples a class.
        validation_shots: others a class, to select the prompt on.
        test_examples: how many of `test` to use, from its start; all by default.
        max_tokens: texts are padded to this length, which alone is public.
        truncate: cut longer texts, instead of refusing them.
    """

    pool: Located
    test: Located
    template: str
    labels: Annotated[dict[str, str], Field(min_length=2)]
    shots: Count = 16
    validation_shots: Count = 16
    test_examples: Count | None = None
    max_tokens: Annotated[int, Field(ge=4)]
    truncate: bool = False

    @field_validator("pool", "test", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        return locate(value, info, "data_owner")

    @field_validator("labels")
    @classmethod
    def _refuse_blanks(cls, value: dict[str, str]) -> dict[str, str]:
        if blank := [label for label, word in value.items() if not label.strip() or not word.strip()]:
            raise ValueError(
                f"has {blank[0]!r}: {value[blank[0]]!r}, but a label and its word must be texts, not blank"
            )
        return value
