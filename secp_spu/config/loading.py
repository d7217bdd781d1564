"""Reads and writes configurations: a YAML file, KEY=VALUE settings on top, and one line for what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import (
    ValidationError,
)
from pydantic_core import ErrorDetails

from secp_spu.config.keys import section_of
from secp_spu.config.run_config import Config
from secp_spu.config.section import OWNERS, Role
from secp_spu.errors import ConfigError
from secp_spu.files import write_whole


def save_config(config: Config, path: Path) -> None:
    """Write what `load_config` reads, with all defaults, and paths as they were found; it may hold the secret seed."""
    content = config.model_dump(mode="json")
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(), secret=True)


def load_config(
    path: Path, settings: Sequence[str] = (), *, party: str | None = None, needs: Set[Role] | None = None
) -> Config:
    """Read a configuration.

    Args:
        path: of a YAML file.
        settings: `KEY=VALUE` with dotted keys, such as `tuning.population=8`; they win over the file.
        party: of a cluster, the one that reads; only files that it needs have to be there. None: all parties.
        needs: whose files have to be there, instead of the party's.
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
    if needs is None:
        needs = OWNERS if party is None else _roles(content, party, path)
    context = {"folder": path.resolve().parent, "roles": needs, "party": party}
    try:
        return Config.model_validate(content, context=context)
    except ValidationError as error:
        raise ConfigError(f"configuration {path}: {_explain(error.errors()[0])}") from error


def _roles(content: Mapping[str, object], party: str, path: Path) -> Set[Role]:
    """What a party owns, read before validation: it decides which files have to be there."""
    cluster = content.get("cluster")
    if not isinstance(cluster, dict):
        return set()
    named = [
        cluster.get("data_owner"),
        cluster.get("model_owner"),
        cluster.get("dealer"),
        *(cluster.get("compute") or ()),
    ]
    if party not in named:
        known = ", ".join(sorted({str(name) for name in named if name}))
        raise ConfigError(f"{party!r} is no party of configuration {path}: its parties are {known}")
    return {role for role in OWNERS if cluster.get(role) == party}


def _set(content: dict[str, object], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write KEY=VALUE, for example --set tuning.population=8")
    *sections, name = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: {section} is no section")
        content = inner
    try:
        content[name] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        content[name] = value  # a template, such as {text} It was {mask}


def _explain(error: ErrorDetails) -> str:
    """One line for what pydantic found: the key, what is wrong, and the mend."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = list(section_of(error["loc"]).model_fields)
        close = get_close_matches(str(error["loc"][-1]), names, n=1)
        return f"{key} is no key: " + (f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return message if message.startswith(key) else f"{key}: {message}"
    if error["type"] in ("model_type", "dict_type"):
        return f"{key} is {error['input']!r}, but must be a section of keys"
    if error["type"] == "float_type" and _is_number(error["input"]):
        return f"{key} is {error['input']!r}, which is text to YAML: write {float(error['input']):.1e}"
    quotes = ", in quotes (YAML reads yes, no and numbers otherwise)" if error["type"] == "string_type" else ""
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{quotes}"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
