"""The section `task` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from secp_spu.config.section import OWN, Count, Section, locate


class TaskSection(Section):
    """A classification task: the model says which label a text has."""

    pool: Annotated[Path, OWN] = Field(
        description="The file of labelled texts from which training and validation examples are drawn. "
        'A line is a JSON object with `label` and the fields of the template, such as `{"text": ..., "label": ...}`. '
        "Only the data owner needs the file.",
    )
    test: Annotated[Path, OWN] = Field(
        description="The file of labelled texts on which the accuracy is measured, in the form of `pool`. "
        "Nothing is tuned or selected on them. Only the data owner needs the file.",
    )
    template: str = Field(
        description="The text that the model reads: words, and the fields of an example in braces, such as `{text}`. "
        "With `model.head: label_words` it also holds `{mask}`, the place of the label word. The template of a decoder "
        "ends with `{mask}`.",
    )
    labels: dict[str, str] = Field(
        min_length=2,
        description="What the model answers for each label: a mapping of labels to label words or to texts. "
        "With `model.head: label_words` the value is a word that is one token of the model. With `label_embeddings` "
        "the value is a text that describes the label. Put words such as yes and no in quotes.",
    )
    shots: Count = Field(default=16, description="Number of training examples for each label, drawn from `pool`.")
    validation_shots: Count = Field(
        default=16,
        description="Number of validation examples for each label, drawn from the rest of `pool`. "
        "The best prompt is selected on them.",
    )
    test_examples: Count | None = Field(
        default=None,
        description="Number of examples of `test` that are used, from the start of the file. By default all are used.",
    )
    max_tokens: int = Field(
        ge=4,
        description="The length, in tokens, to which every text is padded, with the template around it. "
        "All parties know this length; the length of a single text stays secret. The soft prompt is not counted.",
    )
    truncate: bool = Field(
        default=False,
        description="Whether texts longer than `max_tokens` are cut at their ends. Otherwise such a text is refused.",
    )

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
