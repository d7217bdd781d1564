"""Messages between parties: what goes in comes out, and bytes of a stranger's making become an error, never code."""

import os
import pickle
from dataclasses import dataclass

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from secp_spu.model import TransformerConfig
from secp_spu.network.messages import RECORDS, decode, encode
from secp_spu.protocol import Correction, GeluSeries
from secp_spu.runtime import Spec

SERIES = GeluSeries(8.0, 3, (0.5, -0.25), 1e-3)
SHAPE = TransformerConfig(101, 32, 2, 2, 64, 17, 2, 2, 1e-12, activation="series", series=SERIES)

VALUES = [
    None,
    True,
    -(2**70),
    0.1,
    float("inf"),
    "yes\n\u2028",
    b"\x00key",
    b"",
    [],
    (1, [2, (3,)], {}),
    {"a": {1: None, (2, "b"): b"x"}},
    np.float32(0.1),
    np.bool_(True),
    np.dtype(np.uint64),
    Spec((3, 5), np.dtype(np.float32), True),
    SHAPE,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_a_value_comes_out_as_it_went_in(value):
    found = decode(encode(value))
    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize("dtype", ["u1", "<u8", ">u8", "<i4", "<f4", "<f8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3, 5)])
def test_arrays_keep_dtype_shape_and_content(dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 5).reshape(shape).astype(dtype)
    before, found, after = decode(encode([b"odd", {"x": array}, np.array([2**63], np.uint64)]))
    assert (found["x"].dtype, found["x"].shape) == (array.dtype, shape)
    np.testing.assert_array_equal(found["x"], array)
    assert (before, after[0]) == (b"odd", 2**63)
    assert not after.flags.writeable


def test_an_array_in_another_order_and_corrections():
    array = np.arange(12, dtype=np.uint64).reshape(3, 4).T[::2]
    found = decode(encode(Correction(array, -array)))
    assert type(found) is Correction
    np.testing.assert_array_equal(found.cos, array)
    np.testing.assert_array_equal(found.sin, -array)


def test_which_records_are_sent():
    """A record more is something more that peers can make here: look at what its `__post_init__` does."""
    assert {kind.__name__: kind.__module__ for kind in (Correction, TransformerConfig, GeluSeries, Spec)} == RECORDS


@dataclass
class Unknown:
    value: int


class Text(str):
    """A kind of text that is none to us."""


class Spy:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


OTHERS = [
    Unknown(1),
    Text("a"),
    Spy("x"),
    RuntimeError("what went wrong"),
    {1, 2},
    jnp.ones(3),
    [{"a": (object(),)}],
    np.array(["a"]),
    np.array([None]),
    np.ones(2, ml_dtypes.bfloat16),
    np.array([(1, 2.0)], dtype="i4,f4"),
    np.ma.masked_array([1]),
]


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: type(value).__name__)
def test_other_types_are_not_sent(value):
    with pytest.raises(TypeError, match="sent between parties"):
        encode(value)


def test_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(ValueError, match="it "):
            decode(pickle.dumps(Spy(path), protocol))
    assert not path.exists()


def _message(header, content=b""):
    return len(header).to_bytes(4, "big") + header.encode() + content


MALFORMED = [
    b"\x00",
    b"\xff\xff\xff\xff{}",
    _message("no JSON"),
    _message("[]"),
    _message("{}"),
    _message("[[]]"),
    _message("[" * 100_000),
    _message('["eval", "1"]'),
    _message('["record", "Unknown", ["dict"]]'),
    _message('["record", "__class__", ["dict"]]'),
    _message('["record", "Spec", ["dict", ["shape", 1]]]'),
    _message('["record", "Spec", 3]'),
    _message('["record", ["list"], ["dict"]]'),
    _message('["dict", [1]]'),
    _message('["dict", [["list"], 1]]'),
    _message('["bytes", 2]', b"x"),
    _message('["bytes", -1]', b"x"),
    _message('["bytes", true]', b"x"),
    _message('["bytes", 1]', b"xy"),
    _message('["array", "<f8", 2]', b"12345678"),
    _message('["array", "<f8", -1, -1]', b"12345678"),
    _message('["array", "<f8", 1e3]', b""),
    _message('["array", "|O", 1]', b"12345678"),
    _message('["array", "<U2", 1]', b"12345678"),
    _message('["array", "<M8", 1]', b"12345678"),
    _message('["array", "i4,f4", 1]', b"12345678"),
    _message('["array", "<f3", 1]', b"123"),
    _message('["array", ["<f8"], 1]', b"12345678"),
    _message('["dtype", "|O"]'),
    _message('["scalar", "<f8", 2]', b"12345678"),
    _message("1" * 5000),
]


@pytest.mark.parametrize("message", MALFORMED, ids=lambda message: repr(message)[:40])
def test_malformed_messages_are_a_line(message):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        decode(message)


def test_messages_that_were_changed_are_errors_or_values():
    """Whatever bytes come: a ValueError or a value, of types that are sent."""
    generator = np.random.default_rng(0)
    message = encode({"a": [np.arange(3), b"xyz", (1.5, None)], "s": Spec((2,), np.dtype("f4"), False)})
    for _ in range(2000):
        changed = bytearray(message)
        for place in generator.integers(0, len(changed), 3):
            changed[place] = generator.integers(0, 256)
        try:
            encode(decode(bytes(changed)))
        except ValueError:
            continue
