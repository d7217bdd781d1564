"""Says by which key a configuration differs from that of a run in a folder, and whether the run's prompt fits it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import cast

from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError
from secp_spu.trees import Json, JsonObject

CONFIG_NAME = "config.yaml"
"""What a run's folder calls its configuration."""

PROMPT_KEYS = (
    "model.head",
    "model.activation",
    "model.activation_range",
    "model.activation_terms",
    "task.template",
    "task.labels",
    "task.max_tokens",
)
"""Keys that a prompt is tuned for, besides the model's files; `finished_run.fitting` looks at the prompt's length."""


def config_of_run(folder: Path) -> Config | None:
    """The configuration that a run's folder holds, whether or not the files that it names are there.

    Returns: None if there is none, or none that can be read.
    """
    try:
        return load_config(folder / CONFIG_NAME, needs=frozenset())
    except ConfigError:
        return None


def difference_of_course(before: Config, now: Config) -> str | None:
    """The first key that decides a run's course and differs, with both values; None if there is no such key."""
    old, new = (dict(_flat(config.deciding())) for config in (before, now))
    return next((_told(key, before, now) for key in (*old, *new) if old.get(key) != new.get(key)), None)


def difference_for_prompt(before: Config, now: Config) -> str | None:
    """The first key that a prompt is tuned for and that differs, with both values; None if there is no such key."""
    return next((_told(key, before, now) for key in PROMPT_KEYS if _value(before, key) != _value(now, key)), None)


def _told(key: str, before: Config, now: Config) -> str:
    was, is_now = (json.dumps(_value(config, key), ensure_ascii=False) for config in (before, now))
    return f"{key} was {was}, now it is {is_now}"


def _value(config: Config, key: str) -> Json:
    """The value of a dotted key, as JSON; null behind a section that is left out."""
    content: Json = config.model_dump(mode="json")
    return reduce(lambda section, name: cast(JsonObject, section or {}).get(name), key.split("."), content)


def _flat(content: JsonObject, place: str = "") -> Iterator[tuple[str, Json]]:
    """Dotted keys and values."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value
