"""Checks of arguments at the edge of the Python API: each message names the argument, what came and what it takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as shortened


def path_of(value: object, name: str, wanted: str = "a path") -> Path:
    """A path that a user gave.

    Args:
        value: the argument.
        name: of the argument.
        wanted: what the argument takes, in words.
    Raises: TypeError.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` is {shortened(value)}, but must be {wanted}")
    return Path(value)


def settings_of(value: object) -> list[str]:
    """The argument `settings`, of KEY=VALUE.

    Raises: TypeError.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"`settings` is {shortened(value)}, but must be a list, such as ['tuning.population=8']")
    settings = list(value)
    for setting in settings:
        if not isinstance(setting, str):
            raise TypeError(
                f"`settings` holds {shortened(setting)}, but must hold texts, such as 'tuning.population=8'"
            )
    return settings
