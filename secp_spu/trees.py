"""Trees of arrays, as JAX has them, trees of what JSON holds, and NumPy's arrays of numbers."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Tree: TypeAlias = Any  # Any: of what JAX takes as a pytree no type of Python can say; JAX's own signatures have Any.
"""A pytree: containers, nested at will, whose leaves are arrays or stand for arrays."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What JSON can hold."""

JsonObject: TypeAlias = dict[str, Json]
"""A JSON object: a configuration, a record of a measurement, the report of a run."""

Floats: TypeAlias = npt.NDArray[np.float32 | np.float64]
"""An array of NumPy with numbers of either precision."""

Ints: TypeAlias = npt.NDArray[np.int32 | np.int64]
"""An array of NumPy with integers of either size."""
