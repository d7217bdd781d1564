"""Explains the configuration from its models: all keys with values, defaults and descriptions, and a JSON schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import get_args, get_origin

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from secp_spu.config.run_config import Config
from secp_spu.config.section import OWN, Section
from secp_spu.errors import ConfigError

NAME = "NAME"
"""Stands for a party's name in a dotted key."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        place: the sections that the key is in, and its own name last; NAME for the name of a party.
        description: what the key does; the first sentence stands alone.
        allowed: the values that the key takes, in words.
        required: there is no configuration without the key.
        default: the value without the key, in words; None if there is none.
        own: each party of a cluster chooses its value; otherwise all parties must have the same.
    """

    place: tuple[str, ...]
    description: str
    allowed: str
    required: bool
    default: str | None
    own: bool

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.place)

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return _first_sentence(self.description)

    @property
    def values(self) -> str:
        """What is allowed, and the default."""
        presence = "required" if self.required else "optional" if self.default is None else f"default {self.default}"
        return f"{self.allowed}; {presence}"


@dataclass(frozen=True)
class Group:
    """A section of a configuration with its keys.

    Attributes:
        place: where the section is; empty for the configuration itself, NAME last for a section that each party has.
        about: the paragraphs that say what the section is.
        keys: the section's own keys, without those of the sections in it.
    """

    place: tuple[str, ...]
    about: tuple[str, ...]
    keys: tuple[Key, ...]

    @property
    def name(self) -> str:
        """The section's dotted key."""
        return ".".join(self.place)


def key_groups() -> list[Group]:
    """All sections, each before the sections in it."""
    return list(_groups(Config, (), own=False))


def find_key(name: str) -> tuple[Key | None, Group | None]:
    """A key by its dotted name, and the section that the key opens.

    Args:
        name: such as `tuning.sigma` or `cluster.addresses.alice`; a party's name may also be written NAME.
    Returns: the key, and its section; None for what the name is not.
    Raises: ConfigError naming the nearest keys.
    """
    parts = name.split(".")
    key = next((key for group in key_groups() for key in group.keys if _is_at(key.place, parts)), None)
    section = next(
        (group for group in key_groups() if group.place and any(_is_at(place, parts) for place in _names(group))), None
    )
    if key is None and section is None:
        raise ConfigError(f"{name!r} is no key: {_nearest(name)}")
    return key, section


def section_of(place: Sequence[object]) -> type[Section]:
    """The section that the last key of a place stands in, as far as there are such sections."""
    section: type[Section] = Config
    parts = iter(place[:-1])
    for part in parts:
        inner, by_name = _section_in(section, str(part))
        if inner is None or (by_name and next(parts, None) is None):
            break
        section = inner
    return section


@cache
def config_schema() -> JsonSchemaValue:
    """The JSON schema of a configuration's YAML file, for editors; it knows no paths and no rules between keys."""
    return {"$schema": GenerateJsonSchema.schema_dialect} | Config.model_json_schema(schema_generator=_PlainSchema)


class _PlainSchema(GenerateJsonSchema):
    """Leaves out the titles, which would only repeat the keys."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - pydantic's way
        return False


def _groups(section: type[Section], place: tuple[str, ...], *, own: bool) -> Iterator[Group]:
    schema = config_schema()
    if section is not Config:
        schema = schema["$defs"][section.__name__]
    keys, inside = [], []
    for name, field in section.model_fields.items():
        content = schema["properties"][name]
        key = Key(
            (*place, name),
            field.description or "",
            _allowed(content),
            field.is_required(),
            _in_words(content.get("default")),
            own or OWN in field.metadata,
        )
        keys.append(key)
        inner, by_name = _section_in(section, name)
        if inner is not None:
            inside.append((inner, (*key.place, NAME) if by_name else key.place, key.own))
    about = tuple(" ".join(paragraph.split()) for paragraph in (inspect.getdoc(section) or "").split("\n\n"))
    yield Group(place, about, tuple(keys))
    for inner, at, inner_own in inside:
        yield from _groups(inner, at, own=inner_own)


def _section_in(section: type[Section], key: str) -> tuple[type[Section] | None, bool]:
    """The section that a key of another section opens, and whether each party has such a section, by its name."""
    field = section.model_fields.get(key)
    for kind in (field.annotation, *get_args(field.annotation)) if field else ():
        by_name = get_origin(kind) is dict
        inner = get_args(kind)[1] if by_name else kind
        if inspect.isclass(inner) and issubclass(inner, Section):
            return inner, by_name
    return None, False


def _allowed(schema: JsonSchemaValue) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return _one_of([_allowed(part) for part in schema["anyOf"] if part.get("type") != "null"])
    if "$ref" in schema:
        return "section"
    if "const" in schema or "enum" in schema:
        return _one_of([str(value) for value in schema.get("enum", [schema.get("const")])])
    least = f", {schema[size]} or more" if (size := _size(schema)) else ""
    match schema["type"]:
        case "string":
            return str(schema.get("format", "text"))
        case "boolean":
            return "true or false"
        case "array":
            return f"list of {_allowed(schema['items'])}s{least}"
        case "object":
            inner = _allowed(schema["additionalProperties"])
            return "section for each party" if inner == "section" else f"mapping of text to {inner}{least}"
    if "exclusiveMinimum" in schema:
        most = f" and up to {schema['maximum']:,.10g}" if "maximum" in schema else ""
        return f"{schema['type']} above {schema['exclusiveMinimum']:g}{most}"
    if "maximum" in schema:
        return f"{schema['type']} from {schema['minimum']:g} to {schema['maximum']:g}"
    return f"{schema['type']}{least}"


def _size(schema: JsonSchemaValue) -> str | None:
    return next((name for name in ("minItems", "minProperties", "minimum") if name in schema), None)


def _in_words(default: object) -> str | None:
    if default is None or (isinstance(default, dict) and all(value is None for value in default.values())):
        return None
    return str(default).lower() if isinstance(default, bool) else str(default)


def _first_sentence(text: str) -> str:
    """The first sentence of a description."""
    sentence, stop, _ = text.partition(". ")
    return sentence + stop.strip()


def _one_of(words: Sequence[str]) -> str:
    """A list in words: a, b or c."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _names(group: Group) -> list[tuple[str, ...]]:
    """The places under which a section is found: its own, and for the sections of all parties also their key."""
    return [group.place, group.place[:-1]] if group.place[-1] == NAME else [group.place]


def _is_at(place: Sequence[str], parts: Sequence[str]) -> bool:
    return len(place) == len(parts) and all(
        known in (part, NAME) and part for known, part in zip(place, parts, strict=True)
    )


def _nearest(name: str) -> str:
    """The keys that may be meant."""
    known = [key.name for group in key_groups() for key in group.keys]
    last = name.lower().rpartition(".")[2]
    found = [key for key in known if key.rpartition(".")[2] == last]
    found = found or get_close_matches(name.lower(), known, n=1)
    if not found:
        ends = get_close_matches(last, [key.rpartition(".")[2] for key in known], n=1)
        found = [key for key in known if key.rpartition(".")[2] in ends]
    return f"did you mean {_one_of(found)}?" if found else "secp-spu config --explain lists all keys"
