"""What parties may send each other through SecretFlow, as bytes that nothing has to be unpickled for.

A message is plain Python (None, booleans, numbers, texts, bytes, lists, tuples, dicts), NumPy arrays of numbers, and
`RECORDS`. Whoever reads one makes these and nothing else, whatever the bytes are: no name in a message is looked up
anywhere but in `RECORDS`, so a message cannot run code.

The form: four bytes with the length of a JSON text, big-endian; that text, in which everything but None, booleans,
numbers and texts is a list that begins with its kind; then the contents of bytes and arrays, one after another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module

import numpy as np
import numpy.typing as npt

RECORDS = {
    "Correction": "secp_spu.protocol.correlation_maker",
    "TransformerConfig": "secp_spu.model.transformer_config",
    "GeluSeries": "secp_spu.protocol.gelu",
    "Spec": "secp_spu.runtime.program",
}
"""Dataclasses that messages may hold, with their modules: imported when the first message holds one."""

SHOWN_CHARACTERS = 120
"""How much of what another party has sent a line for the user shows."""

FAILED = b""
"""The message of a party that has failed, in place of what it was to send. It tells nothing: who sent it is known."""

_PLAIN = (type(None), bool, int, float, str)
_HEADER_BYTES = 4
_NUMBERS = "biuf"  # NumPy's kinds of dtypes


class RefusedMessage(Exception):
    """A message that no party of this run would send; the text is one line that names the sender."""


def shown(value: object) -> str:
    """What another party has sent, for a line for the user: escaped, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def encode(value: object) -> bytes:
    """A value as bytes.

    Raises: TypeError for a type that is not sent between parties.
    """
    contents: list[bytes | memoryview] = []
    header = json.dumps(_describe(value, contents)).encode()
    return b"".join([len(header).to_bytes(_HEADER_BYTES, "big"), header, *contents])


def _describe(value: object, contents: list[bytes | memoryview]) -> object:
    """What JSON says of a value; bytes and arrays are appended to `contents`."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if type(value) is list or type(value) is tuple:
        return [kind.__name__, *(_describe(item, contents) for item in value)]
    if type(value) is dict:
        pairs = [(_describe(key, contents), _describe(item, contents)) for key, item in value.items()]
        return ["dict", *pairs]
    if type(value) is bytes:
        contents.append(value)
        return ["bytes", len(value)]
    if isinstance(value, np.dtype):
        return ["dtype", _dtype_name(value)]
    if type(value) is np.ndarray or isinstance(value, np.generic):
        described = ["array" if kind is np.ndarray else "scalar", _dtype_name(value.dtype), *value.shape]
        contents.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return described
    if RECORDS.get(kind.__name__) == kind.__module__ and is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return ["record", kind.__name__, _describe(parts, contents)]
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not sent between parties: make it of plain values")


def _dtype_name(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind not in _NUMBERS:
        raise TypeError(f"arrays of {dtype} are not sent between parties, but numbers are")
    return dtype.str


def decode(message: bytes) -> object:
    """The value that `encode` was given; arrays are read-only.

    Raises: ValueError for bytes that `encode` does not make.
    """
    length = int.from_bytes(message[:_HEADER_BYTES], "big")
    start = _HEADER_BYTES + length
    if len(message) < start:
        raise ValueError("it is cut short")
    try:
        reader = _Reader(message, start)
        value = reader.read(json.loads(message[_HEADER_BYTES:start]))
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("it is malformed") from error
    if reader.position != len(message):
        raise ValueError("it is longer than it says")
    return value


class _Reader:
    """Makes the values that a header describes, and takes their contents from where the last one ended."""

    def __init__(self, message: bytes, position: int):
        self.position, self._message = position, message
        self._kinds: dict[str, Callable[..., object]] = {
            "list": lambda *items: [self.read(item) for item in items],
            "tuple": lambda *items: tuple(self.read(item) for item in items),
            "dict": lambda *pairs: {self.read(key): self.read(item) for key, item in pairs},
            "bytes": lambda size: bytes(self._take(size)),
            "dtype": _dtype,
            "array": lambda dtype, *shape: self._array(_dtype(dtype), shape),
            "scalar": lambda dtype: self._array(_dtype(dtype), ())[()],
            "record": self._record,
        }

    def read(self, described: object) -> object:
        """One value."""
        if not isinstance(described, list):
            if isinstance(described, dict):
                raise ValueError("it is malformed")
            return described
        kind, *parts = described
        if kind not in self._kinds:
            raise ValueError(f"it has a {str(kind)[:40]!r}, which parties do not send")
        return self._kinds[kind](*parts)

    def _take(self, size: int) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self._message) - self.position:
            raise ValueError("it is cut short")
        self.position += size
        return memoryview(self._message)[self.position - size : self.position]

    def _array(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError("it has an array without a shape")
        content = self._take(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape) if len(content) else np.zeros(shape, dtype)

    def _record(self, name: str, parts: object) -> object:
        if name not in RECORDS:
            raise ValueError(f"it has a {str(name)[:40]!r}, which parties do not send")
        values, record = self.read(parts), getattr(import_module(RECORDS[name]), name)
        if not isinstance(values, dict):
            raise ValueError("it is malformed")
        return record(**values)


def _dtype(name: str) -> np.dtype[np.generic]:
    if not isinstance(name, str) or name[1:2] not in _NUMBERS or not name[2:].isdigit():
        raise ValueError(f"it has an array of {str(name)[:40]!r}, which is no number")
    return np.dtype(name)
