"""What all sections of a configuration share: a strict base class, and paths that are found from the file's folder."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
)

from secp_spu.trees import JsonObject

PACKAGE_PREFIX = "package:"


Role = Literal["data_owner", "model_owner"]


OWNERS: frozenset[Role] = frozenset({"data_owner", "model_owner"})


def locate(value: str, info: ValidationInfo, *readers: Role) -> Path:
    """A path of the configuration: $VARIABLES and ~ replaced, `package:NAME/...` found, relative to the file's folder.

    Where none of its readers is, in a cluster, the path stays as it is written: the file is on another machine.
    """
    if readers and not (info.context or {}).get("roles", OWNERS) & set(readers) and isinstance(value, str) and value:
        return Path(value)
    path = place(value, info)
    try:
        path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"{path} does not exist" if missing else f"{path}: {error.strerror}") from error
    return path


def place(value: str, info: ValidationInfo) -> Path:
    """Where a path of the configuration points, whether or not there is a file."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {value!r}, but must be a path; put it in quotes if YAML reads it as something else")
    text = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: _variable(match.group(1) or match.group(2)), value)
    if text.startswith(PACKAGE_PREFIX):
        name, _, rest = text.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise ValueError(f"the Python package {name!r} is not installed: see 'Installing' in the README")
        return Path(spec.origin).parent / rest
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / _at_home(text)


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"is {text!r}, but there is no such home folder: write the whole path") from error


def _variable(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"the environment variable {name} is not set: set it, or write the path itself")
    return os.environ[name]


Count = Annotated[int, Field(ge=1)]


OWN = "own"
"""Marks a key whose value each party of a cluster chooses for itself. The parties do not compare such values."""


class Section(BaseModel):
    """A section of a configuration: unknown keys and values of another type are refused.

    Users read what the sections say of themselves: a section's docstring says what the section is for, and the
    description of each key says what the key does. The first sentence of a description stands alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def shared(self) -> JsonObject:
        """The values, as JSON, that all parties of a cluster must have in common: all but those marked OWN."""
        content: JsonObject = self.model_dump(mode="json")
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if OWN in field.metadata:
                del content[key]
            elif isinstance(value, Section):
                content[key] = value.shared()
            elif isinstance(value, dict) and isinstance(inside := content[key], dict):
                inside |= {name: inner.shared() for name, inner in value.items() if isinstance(inner, Section)}
        return content


def for_party(value: str, info: ValidationInfo) -> str:
    """A path in which `{party}` has become the name of the party that reads, if one does."""
    party = (info.context or {}).get("party")
    return value.replace("{party}", party) if isinstance(value, str) and party else value


def own_file(value: str, info: ValidationInfo) -> Path:
    """A file that this party writes; `{party}` in its path stands for the party's name, ~ for its home."""
    if isinstance(value, str) and (other := re.search(r"(?<!\$)\{(?!party\})[^{}]*\}", value)):
        raise ValueError(f"has {other[0]}, but {{party}} is all that stands for something: write that, or the path")
    return place(for_party(value, info), info)
