"""Reads and writes configurations: a YAML file, KEY=VALUE settings on top, and one line for what is wrong."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from secp_spu.config.keys import section_of
from secp_spu.config.run_config import Config
from secp_spu.config.section import OWNERS, Role
from secp_spu.errors import ConfigError
from secp_spu.files import NotUtf8, read_utf8, write_whole


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
    content = _read(path)
    for setting in settings:
        _set(content, setting)
    if needs is None:
        needs = OWNERS if party is None else _roles(content, party, path)
    context = {"folder": path.resolve().parent, "roles": needs, "party": party}
    try:
        return Config.model_validate(content, context=context)
    except ValidationError as error:
        faults = error.errors()
        raise ConfigError(f"{_origin(path, settings, faults[0])}: {_explain(faults)}") from error


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        lines: dict[object, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise _RepeatedKey(
                    f"`{key.value}` stands on line {lines[key.value]} and on line {_line(key)}: keep one"
                )
            lines[key.value] = _line(key)
        return super().construct_mapping(node, deep)


class _RepeatedKey(Exception):
    pass


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _read(path: Path) -> dict[str, object]:
    try:
        content = yaml.load(read_utf8(path), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except _RepeatedKey as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    except NotUtf8 as error:
        raise ConfigError(f"configuration {path} is {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration {path} holds no keys: it must be a YAML mapping")
    return content


def _origin(path: Path, settings: Sequence[str], error: ErrorDetails) -> str:
    """Where a fault came from: the file, or the last setting of its key."""
    key = _key(error)
    if error["type"] == "value_error" and (message := str(error["ctx"]["error"])).startswith(key):
        key = message.partition(":")[0]  # a check of several keys says in front which it blames
    for setting in reversed(settings):
        name = setting.partition("=")[0]
        if key == name or key.startswith(f"{name}."):
            return f"`settings` {setting}"
    return f"configuration {path}"


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
        raise ConfigError(f"`settings` {setting}: write KEY=VALUE, for example tuning.population=8")
    *sections, name = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"`settings` {setting}: {section} is no section")
        content = inner
    try:
        content[name] = yaml.load(value, _Loader)  # noqa: S506 - a SafeLoader
    except _RepeatedKey as error:
        raise ConfigError(f"`settings` {setting}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError):
        content[name] = value  # a template, such as {text} It was {mask}


def _key(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


def _explain(errors: Sequence[ErrorDetails]) -> str:
    """One line for the first fault that pydantic found, or for all keys that are missing."""
    error, key = errors[0], _key(errors[0])
    if error["type"] == "extra_forbidden":
        *sections, last = map(str, error["loc"])
        names = list(section_of(error["loc"]).model_fields)
        close = [".".join([*sections, name]) for name in get_close_matches(last, names, n=1)]
        return f"{key} is no key: " + (f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}")
    if error["type"] == "missing":
        missing = [_key(other) for other in errors if other["type"] == "missing"]
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if error["type"] == "too_short":
        context = error["ctx"]
        return f"{key} has a length of {context['actual_length']}, but must have at least {context['min_length']}"
    if error["input"] is None:
        return f"{key} is empty: give it a value, or leave the key out"
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
