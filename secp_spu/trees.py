"""Trees of arrays, as JAX has them, and trees of what JSON holds."""

from typing import Any, TypeAlias

Tree: TypeAlias = Any  # Any: of what JAX takes as a pytree no type of Python can say; JAX's own signatures have Any.
"""A pytree: containers, nested at will, whose leaves are arrays or stand for arrays."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What JSON can hold."""

JsonObject: TypeAlias = dict[str, Json]
"""A JSON object: a configuration, a record of a measurement, the report of a run."""
