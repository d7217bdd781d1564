"""Splits ring elements into the parties' shares and puts them together: additive and replicated secret sharing.

SPU's own `Io` does the same for ordinary values, but it cannot place a share that nobody computed from a secret, such
as a mask whose parts the parties drew themselves, and it is slow for a model's weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from spu import libspu

from secp_spu.protocol.ring import FRACTION_BITS

RingArray: TypeAlias = npt.NDArray[np.uint64]
"""Elements of the ring Z_2**64."""

RING_BYTES = 8
KEY_BYTES = 32

_DATA_TYPES: dict[np.dtype[np.generic], libspu.DataType] = {
    np.dtype(np.int32): libspu.DataType.DT_I32,
    np.dtype(np.float32): libspu.DataType.DT_F32,
}


class MaskStream:
    """Uniform elements of Z_2**64 from AES-256 in counter mode, keyed by the operating system or by a shared key.

    Two holders of the same key draw the same elements as long as they draw in the same order. No element is ever
    drawn twice from one stream.
    """

    def __init__(self, key: bytes | None = None):
        self._key = os.urandom(KEY_BYTES) if key is None else key
        if len(self._key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(self._key)}")
        self._cipher = Cipher(algorithms.AES(self._key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "MaskStream(key not shown)"

    def twin(self) -> MaskStream:
        """A stream for the other holder of the key, from the beginning."""
        return MaskStream(self._key)

    def draw(self, shape: Sequence[int]) -> RingArray:
        """The next uniform ring elements, as an array of `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        drawn = self._cipher.update(bytes(count * RING_BYTES))
        return np.frombuffer(drawn, np.uint64).reshape(tuple(shape))


def encode(values: npt.NDArray[np.generic]) -> RingArray:
    """float32 as ring integers with 18 fraction bits, rounded to nearest; int32 and whole elements (uint64) as is.

    Raises: ValueError for another dtype, and for a value that is not finite or exceeds +-2**44.
    """
    values = np.asarray(values)  # JAX's own arrays have no 64-bit integers
    if values.dtype == np.uint64:
        return values.astype(np.uint64)
    if values.dtype == np.int32:
        return values.astype(np.int64).view(np.uint64)
    if values.dtype != np.float32:
        raise ValueError(f"values have dtype {values.dtype}: share float32 or int32, or whole ring elements as uint64")
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > 2.0**44):
        raise ValueError("values must be finite and at most 2**44 in magnitude to be shared")
    integers: npt.NDArray[np.int64] = np.rint(values.astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64)
    return integers.view(np.uint64)


def decode(elements: RingArray, dtype: np.dtype[np.generic]) -> npt.NDArray[np.float32 | np.int32 | np.uint64]:
    """What `encode` made, as float32 or int32; or the elements themselves, as uint64.

    Raises: ValueError for an element that int32 cannot hold, which would wrap around.
    """
    if dtype == np.uint64:
        return elements
    signed = elements.view(np.int64)
    if dtype == np.float32:
        return (signed * 2.0**-FRACTION_BITS).astype(np.float32)
    allowed = np.iinfo(np.int32)
    if signed.size and not allowed.min <= signed.min() <= signed.max() <= allowed.max:
        raise ValueError(
            f"an opened element has a value outside {allowed.min:,} to {allowed.max:,}, which int32 cannot hold: open "
            "ring integers as fixed-point numbers, by from_ring, or look for overflow in the program"
        )
    return signed.astype(np.int32)


@dataclass(frozen=True)
class Scheme:
    """How SPU's protocols share a ring element x: as components x_0 + ... + x_{n-1} = x mod 2**64.

    SEMI2K: rank j holds component j. ABY3: rank j holds components j and j + 1 (mod 3), interleaved.
    """

    protocol: str
    parties: int

    def __post_init__(self) -> None:
        if self.protocol not in ("aby3", "semi2k"):
            raise ValueError(f"protocol is {self.protocol!r}, but shares are known for 'aby3' and 'semi2k'")
        if not isinstance(self.parties, int) or isinstance(self.parties, bool):
            raise ValueError(f"parties is {self.parties!r}, but must be a whole number")
        if (self.protocol == "aby3" and self.parties != 3) or self.parties < 2:
            raise ValueError(f"{self.protocol} cannot run among {self.parties} parties: aby3 has 3, semi2k 2 or more")

    @property
    def replicated(self) -> bool:
        """Whether every component is held by two ranks."""
        return self.protocol == "aby3"

    def held_by(self, rank: int) -> tuple[int, ...]:
        """The components that `rank` holds, in the order of its share."""
        return (rank, (rank + 1) % 3) if self.replicated else (rank,)

    def holders(self, component: int) -> tuple[int, ...]:
        """The ranks that hold `component`."""
        return tuple(rank for rank in range(self.parties) if component in self.held_by(rank))

    @property
    def kind(self) -> libspu.ProtocolKind:
        """SPU's name of the protocol."""
        return {"aby3": libspu.ProtocolKind.ABY3, "semi2k": libspu.ProtocolKind.SEMI2K}[self.protocol]

    def split(self, elements: RingArray, stream: MaskStream) -> list[RingArray]:
        """Uniform components that add up to `elements`: all but the last drawn from `stream`."""
        drawn = [stream.draw(elements.shape) for _ in range(self.parties - 1)]
        last = elements.copy()
        for component in drawn:
            last -= component
        return [*drawn, last]

    def share(self, rank: int, components: Mapping[int, RingArray], dtype: np.dtype[np.generic]) -> libspu.Share:
        """The secret SPU value that `rank` holds, from the components it knows.

        Args:
            rank: of the party.
            components: by number, arrays of uint64 of one shape; those of `held_by(rank)` at least.
            dtype: float32 for fixed-point numbers, int32 for ring integers.
        Raises: ValueError for components that are not uint64: a narrower mask would leave high bits in the open.
        """
        held = [components[c] for c in self.held_by(rank)]
        for component in held:
            if component.dtype != np.uint64:
                raise ValueError(f"a component has dtype {component.dtype}: shares are whole ring elements, uint64")
        interleaved = np.stack(held, -1) if len(held) > 1 else held[0]
        return _raw_share(held[0].shape, dtype, f"{self.protocol}.AShr<FM64>", interleaved)

    def public(self, values: npt.NDArray[np.generic]) -> libspu.Share:
        """The public SPU value, the same at every rank."""
        return public_share(encode(values), values.dtype)

    def components(self, rank: int, share: libspu.Share) -> dict[int, RingArray]:
        """The components in a share that SPU gave to `rank`, by number.

        Raises: ValueError for a share in another form, such as a boolean one.
        """
        meta = _meta_of(share)
        if meta.storage_type != f"{self.protocol}.AShr<FM64>":
            raise ValueError(
                f"a share is stored as {meta.storage_type}: only arithmetic shares of 64 bits are read here"
            )
        held = self.held_by(rank)
        flat = _elements(share).reshape(*meta.shape.dims, len(held))
        return {number: flat[..., i] for i, number in enumerate(held)}

    def part(self, rank: int, share: libspu.Share) -> RingArray:
        """What `rank` contributes to opening a share: its first component. All ranks' parts add up to the value.

        A public value is rank 0's to contribute; the others add zeros.
        """
        if _meta_of(share).visibility != libspu.Visibility.VIS_PUBLIC:
            return self.components(rank, share)[rank]
        elements = public_elements(share)
        return elements if rank == 0 else np.zeros_like(elements)

    def reconstruct(self, shares: Sequence[libspu.Share]) -> RingArray:
        """The ring elements that the shares of all ranks stand for."""
        parts = [self.part(rank, share) for rank, share in enumerate(shares)]
        return sum(parts, start=np.zeros_like(parts[0]))


def public_share(elements: RingArray, dtype: np.dtype[np.generic]) -> libspu.Share:
    """Ring elements as a public SPU value."""
    return _raw_share(elements.shape, dtype, "Pub2k<FM64>", elements, libspu.Visibility.VIS_PUBLIC)


def public_elements(share: libspu.Share) -> RingArray:
    """The ring elements of a public SPU value.

    Raises: ValueError for a secret one.
    """
    meta = _meta_of(share)
    if meta.visibility != libspu.Visibility.VIS_PUBLIC:
        raise ValueError("a value is secret, where a public one is wanted")
    return _elements(share).reshape(meta.shape.dims)


def _meta_of(share: libspu.Share) -> libspu.ValueMeta:
    """Shape, type and visibility of an SPU value."""
    meta = libspu.ValueMeta()
    meta.ParseFromString(share.meta)
    return meta


def _raw_share(
    shape: Sequence[int],
    dtype: np.dtype[np.generic],
    storage: str,
    elements: RingArray,
    visibility: libspu.Visibility = libspu.Visibility.VIS_SECRET,
) -> libspu.Share:
    meta = libspu.ValueMeta()
    meta.data_type = _DATA_TYPES[np.dtype(dtype)]
    meta.visibility = visibility
    meta.shape = list(shape)
    meta.storage_type = storage
    share = libspu.Share()
    share.meta = meta.SerializeToString()
    share.share_chunks = [_chunk(elements)]
    return share


# SPU hands over a share as messages of protobuf, `ValueChunkProto`: 1 total_bytes, 2 chunk_offset, 3 content. They are
# read and written here, for SPU's own objects copy the content several times, and hold Python's lock meanwhile.

_TOTAL, _OFFSET, _CONTENT = 0x08, 0x10, 0x1A
"""Tags of the three fields; a number that is zero is left out."""


def _chunk(elements: RingArray) -> bytes:
    """All elements as one chunk."""
    if not elements.nbytes:
        return b""  # protobuf leaves out fields that are zero or empty
    size = _varint(elements.nbytes)
    head = bytes([_TOTAL]) + size + bytes([_CONTENT]) + size
    return b"".join([head, np.ascontiguousarray(elements).data.cast("B")])


def _elements(share: libspu.Share) -> RingArray:
    """All ring elements of a share, which may be several chunks, as one row."""
    chunks = [_content(serialized) for serialized in share.share_chunks]
    found = np.empty(sum(len(content) for _, content in chunks), np.uint8)
    for offset, content in chunks:
        found[offset : offset + len(content)] = np.frombuffer(content, np.uint8)
    return found.view(np.uint64)


def _content(serialized: bytes) -> tuple[int, memoryview]:
    """A chunk's offset and content.

    Raises: ValueError for another message.
    """
    offset, place = 0, 0
    while place < len(serialized):
        tag = serialized[place]
        value, place = _read_varint(serialized, place + 1)
        if tag == _CONTENT and place + value == len(serialized):
            return offset, memoryview(serialized)[place:]
        if tag not in (_TOTAL, _OFFSET):
            raise ValueError("a chunk of a share is no message of SPU's that is known here")
        offset = value if tag == _OFFSET else offset
    return offset, memoryview(b"")


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last have their highest bit set."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _read_varint(serialized: bytes, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    value = shift = 0
    while True:
        byte = serialized[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
