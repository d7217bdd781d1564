"""A YAML file and KEY=VALUE settings in, one validated configuration for every command and party out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

PACKAGE_PREFIX = "package:"


class ConfigError(ValueError):
    """Bad input: one sentence that names the key or file, what came, what is allowed and the mend."""


def _locate(value: str, info: ValidationInfo) -> Path:
    """A path of the configuration: $VARIABLES replaced, `package:NAME/...` found, relative to the file's folder."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {value!r}, but must be a path; put it in quotes if YAML reads it as something else")
    text = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: _variable(match.group(1) or match.group(2)), value)
    if text.startswith(PACKAGE_PREFIX):
        name, _, rest = text.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise ValueError(f"the Python package {name!r} is not installed: see 'Installing' in the README")
        path = Path(spec.origin).parent / rest
    else:
        folder: Path = (info.context or {}).get("folder", Path())
        path = folder / text
    try:
        path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"{path} does not exist" if missing else f"{path}: {error.strerror}") from error
    return path


def _variable(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"the environment variable {name} is not set: set it, or write the path itself")
    return os.environ[name]


Located = Annotated[Path, Field(description="a path")]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """The model owner's model.

    Attributes:
        folder: a Hugging Face folder, or `package:NAME/FOLDER` inside an installed Python package.
        head: "label_words": the masked-LM head's logits of a word for each label; "label_embeddings": similarity to a
            text that describes each label, for encoders without such a head.
        gelu: "exact", or "tanh": the tanh form in place of the exact one, off by 5e-4 at most and five times cheaper.
    """

    folder: Located
    head: Literal["label_words", "label_embeddings"] = "label_words"
    gelu: Literal["exact", "tanh"] = "exact"

    @field_validator("folder", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        return _locate(value, info)


class TaskSection(_Section):
    """The data owner's task.

    Attributes:
        pool: JSON lines with `label` and the template's fields; training and validation examples are drawn from it.
        test: the same, for accuracy only.
        template: what the model reads: fields of the examples in braces, and {mask} for the label-word head.
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
        return _locate(value, info)


class TuningSection(_Section):
    """Forward-only tuning.

    Attributes:
        prompt_tokens: vectors of the soft prompt.
        intrinsic_dim: length of z in p = A z + p0.
        population: candidates a generation.
        generations: how many; a run can be resumed with more.
        loss: of the logits of the label words.
        sigma: CMA-ES' first step size.
        alpha: scales A, whose entries have the standard deviation alpha * sd(word embeddings) / (sqrt(d) * sigma).
        candidates_per_call: candidates in one forward pass; all by default.
        seed: of the few-shot draw, p0, A and CMA-ES. Masks are never seeded.
    """

    prompt_tokens: Count
    intrinsic_dim: Annotated[int, Field(ge=2, le=10_000)]
    population: Annotated[int, Field(ge=4, le=10_000)]
    generations: Count
    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    candidates_per_call: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class Config(_Section):
    """Everything that a run is made of.

    Attributes:
        protocol: "aby3": three parties of which any two are honest; "semi2k": two or more parties, of which the first
            deals the multiplication triples; "plaintext": no MPC, for comparison.
        parties: how many compute parties.
        correlations: "joint": made by the parties together; "dealt": by a dealer who knows every mask, so it must be no
            compute party and see no opening.
        trusted_first_party: must be true for semi2k: SPU's published wheels let the first party deal the triples, and
            it could open everything with them.
    """

    protocol: Literal["aby3", "semi2k", "plaintext"] = "aby3"
    parties: Annotated[int, Field(ge=2)] = 3
    correlations: Literal["joint", "dealt"] = "joint"
    trusted_first_party: bool = False
    model: ModelSection
    task: TaskSection
    tuning: TuningSection

    @model_validator(mode="after")
    def _check_trust(self) -> Config:
        if self.protocol == "aby3" and self.parties != 3:
            raise ValueError(f"parties: is {self.parties}, but aby3 runs among 3")
        if self.protocol == "semi2k" and not self.trusted_first_party:
            raise ValueError(
                "trusted_first_party: is false, but under semi2k the first party deals the multiplication triples and "
                "could open every secret with them: set it to true if that party may be trusted, or take aby3"
            )
        if self.model.head == "label_words" and "{mask}" not in self.task.template:
            raise ValueError("task.template: has no {mask}, where the label-word head reads")
        return self

    def digest(self) -> str:
        """A fingerprint of all that decides a run's course; `generations` may grow when a run is resumed."""
        content = self.model_dump(mode="json")
        del content["tuning"]["generations"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_config(path: Path, settings: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: of a YAML file.
        settings: `KEY=VALUE` with dotted keys, such as `tuning.population=8`; they win over the file.
    Raises: ConfigError naming the file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration {path} holds no keys: it must be a YAML mapping")
    for setting in settings:
        _set(content, setting)
    try:
        return Config.model_validate(content, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError(f"configuration {path}: {_explain(error.errors()[0])}") from error


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write KEY=VALUE, for example --set tuning.population=8")
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {setting}: {section} is no section")
    try:
        content[name] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        content[name] = value  # a template, such as {text} It was {mask}


def _explain(error: Any) -> str:
    """One line for what pydantic found: the key, what is wrong, and the mend."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        sections: dict[str, type[_Section]]
        sections = {"model": ModelSection, "task": TaskSection, "tuning": TuningSection}
        section = sections.get(str(error["loc"][0]), Config) if len(error["loc"]) > 1 else Config
        names = list(section.model_fields)
        close = get_close_matches(str(error["loc"][-1]), names, n=1)
        return f"{key} is no key: " + (f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if key else message
    quotes = ", in quotes (YAML reads yes, no and numbers otherwise)" if error["type"] == "string_type" else ""
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{quotes}"
