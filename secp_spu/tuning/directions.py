"""Gradients that stay in shares: of each step the direction, of mean square one, which nobody sees.

A prompt is p0 + deviation * z D, with the directions D as rows. The data owner's optimizer steps in terms of them: it
knows z, and of D nothing but the logits of the prompts that it asks for, as in tuning with forward passes alone. At the
end it is given the tuned prompt, z D.

So that a run can be resumed, each direction goes to the data owner's checkpoint, behind a mask of the model owner's
(`DirectionMasks`).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax import Array

from secp_spu.errors import RuntimeFailure
from secp_spu.inference import SHIFT_BITS, setting_of
from secp_spu.model import SUM_BITS, Setting
from secp_spu.protocol import (
    Fixed,
    MaskStream,
    constant,
    from_ring,
    from_storage,
    inverse_sqrt,
    mean_of,
    multiply,
    rearranged,
    rounded,
    to_storage,
)
from secp_spu.protocol.sharing import RingArray
from secp_spu.runtime import Actor, Owned, Runtime, Stored
from secp_spu.trees import Tree
from secp_spu.tuning.announced import require_shape
from secp_spu.tuning.inputs import PromptSet
from secp_spu.tuning.parties import DATA_OWNER

POINT_BITS = 16
"""Fraction bits of z: with a direction's SHIFT_BITS they make 16 more than shifts have, one cheap truncation."""

SQUARED_BITS = 9
"""Fraction bits of a gradient before it is squared. Its largest numbers may be 2**11 with room for 2**18 of them."""

MEAN_SQUARE_BITS = 12
"""Of a gradient's mean square, so that SPU's inverse root takes one of up to 2**23."""

LEAST_SQUARE = 2.0**-MEAN_SQUARE_BITS
"""Added to a mean square: one unit. A gradient whose numbers are some 2**-6 or less is shortened."""

INVERSE_BITS, ROOT_BITS = 21, 14
"""Of the inverse root, and of the public root by which `mean_of` is corrected."""

NONCE_BYTES, TAG_BYTES = 32, 16


class Directions:
    """The directions of a run's steps, as rows of one array in shares.

    Args:
        runtime: that has the model.
        owners: actors of a DataOwner and a ModelOwner.
        shape: of a prompt: its tokens, and the model's width.
        steps: of the run.
    Raises: RuntimeFailure if what the data owner has kept of a run before are no directions of this model's.
    """

    def __init__(self, runtime: Runtime, owners: tuple[Actor, Actor], shape: tuple[int, int], steps: int):
        self._runtime, self._data_owner, self._model_owner = runtime, *owners
        self._length, self._steps, self._taken = math.prod(shape), steps, 0
        self._shifts = partial(_shifts, setting_of(runtime))
        self._step = partial(_step, setting_of(runtime))
        self._start: Stored = runtime.share(self._data_owner.start_shift())
        require_shape(self._start, shape, "a shift")
        self._rows = self._kept()

    def _kept(self) -> Stored:
        """Those of a run before, and zeros [steps, length]."""
        nonces = self._runtime.disclose(self._data_owner.direction_nonces())
        if not isinstance(nonces, list) or len(nonces) > self._steps:
            raise RuntimeFailure("the data owner names no directions: install the same secp-spu at all parties")
        self._taken = len(nonces)
        rest = [""] * (self._steps - len(nonces))
        masked: Stored = self._runtime.share(self._data_owner.masked_directions(self._steps, self._length))
        require_shape(masked, (self._steps, self._length), "directions")
        if not self._runtime.secure:
            return masked
        masks: Stored = self._runtime.share(self._model_owner.direction_masks([*nonces, *rest], self._length))
        rows: Stored = self._runtime.run("unmask_directions", _unmask, masked, masks)
        self._runtime.free([masked, masks])
        return rows

    def shifts(self, which: PromptSet, first: int, last: int) -> Stored:
        """Shifts of prompts first..last - 1 of a set, for `PromptEmbedding` [prompts, prompt_tokens, width]."""
        points: Stored = self._runtime.share(self._data_owner.points(which, first, last))
        require_shape(points, (last - first, self._steps), "points")
        shifts: Stored = self._runtime.run("shift_prompts", self._shifts, points, self._rows, self._start)
        self._runtime.free(points)
        return shifts

    def take(self, gradient: Stored) -> tuple[str, Owned]:
        """Keep the direction of a gradient as the next row.

        Args:
            gradient: of SUM_BITS fraction bits, scaled by anything [1, prompt_tokens, width]; deleted.
        Returns: what the data owner's checkpoint needs of it: a nonce, and the direction behind a mask.
        """
        place = np.zeros((self._steps, 1), np.int32)
        place[self._taken] = 1
        here, nonce, masks = self._runtime.publish(place), "", []
        if self._runtime.secure:
            nonce = self._runtime.disclose(self._model_owner.new_nonce())
            masks = [self._runtime.share(self._model_owner.direction_masks([nonce], self._length))]
        rows, masked = self._runtime.run("step", self._step, gradient, self._rows, here, *masks)
        self._runtime.free([gradient, self._rows, here, *masks])
        self._rows, self._taken = rows, self._taken + 1
        opened = self._runtime.open_to(DATA_OWNER, masked, whole=self._runtime.secure)
        self._runtime.free(masked)
        return nonce, opened

    def opened(self, which: PromptSet) -> Owned:
        """The shift of a set's one prompt, opened to the data owner alone [1, prompt_tokens, width]."""
        shift = self.shifts(which, 0, 1)
        found = self._runtime.open_to(DATA_OWNER, shift)
        self._runtime.free(shift)
        return found


def _shifts(setting: Setting, points: Array, rows: Array, start: Array) -> Array:
    """z D + the shift of p0."""
    z, directions, first = (
        from_storage(array, bits, secure=setting.secure)
        for array, bits in ((points, POINT_BITS), (rows, SHIFT_BITS), (start, SHIFT_BITS))
    )
    moved = rearranged(lambda a: a.reshape(len(points), *start.shape), rounded(z @ directions, SHIFT_BITS))
    return to_storage(moved + first, SHIFT_BITS)


def _step(setting: Setting, gradient: Array, rows: Array, here: Array, *mask: Array) -> tuple[Array, Array]:
    """All rows with a gradient's direction in its place, and the direction behind a mask."""
    g = from_storage(gradient.reshape(1, -1), SUM_BITS, secure=setting.secure)
    small, length = rounded(g, SQUARED_BITS), g.shape[-1]
    square = rounded(mean_of((small * small).sum(-1, keepdims=True), length), MEAN_SQUARE_BITS)
    surplus = 2 ** math.ceil(math.log2(length)) / length  # of `mean_of`
    inverse = inverse_sqrt(square, LEAST_SQUARE) * constant(1 / math.sqrt(surplus), ROOT_BITS, g)
    direction = rounded(multiply(g, rounded(inverse, INVERSE_BITS)), SHIFT_BITS)
    place = Fixed(here, 0) if setting.secure else here
    kept = to_storage(from_storage(rows, SHIFT_BITS, secure=setting.secure) + direction * place, SHIFT_BITS)
    if isinstance(direction, Fixed):
        return kept, direction.ring - mask[0]
    return kept, to_storage(direction, SHIFT_BITS)


def _unmask(masked: Array, masks: Array) -> Array:
    return from_ring(masked + masks)


class DirectionMasks:
    """The model owner's masks of directions in a data owner's checkpoint.

    A mask is uniform ring elements, from a key that a fresh nonce and all of the model's weights give: the model owner
    has nothing to keep, and makes it again when the data owner brings the nonce back. It is as secret as the weights
    are, and so is what it hides: who has the weights computes the gradient itself.

    Args:
        weights: of the model, all that are secret.
    """

    def __init__(self, weights: Tree):
        digest = hashlib.sha256(b"secp_spu: masks of directions")
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
            digest.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
        self._key = digest.digest()

    def new_nonce(self) -> str:
        """A fresh one, with a tag by which it is known again."""
        fresh = secrets.token_bytes(NONCE_BYTES)
        return (fresh + self._tag(fresh)).hex()

    def _tag(self, nonce: bytes) -> bytes:
        return hmac.digest(self._key, b"tag" + nonce, "sha256")[:TAG_BYTES]

    def masks(self, nonces: Sequence[str], length: int) -> RingArray:
        """Ring elements [nonces, length]; zeros for an empty nonce.

        Raises: RuntimeFailure for a nonce that was not given out with these weights.
        """
        return np.concatenate([self._mask(nonce, length) for nonce in nonces])

    def _mask(self, nonce: str, length: int) -> RingArray:
        if not nonce:
            return np.zeros((1, length), np.uint64)
        try:
            given = bytes.fromhex(nonce)
        except ValueError:
            given = b""
        fresh, tag = given[:NONCE_BYTES], given[NONCE_BYTES:]
        if not hmac.compare_digest(tag, self._tag(fresh)):
            raise RuntimeFailure(
                "the run that is to go on was begun with other weights of the model, or its checkpoint is damaged: put "
                "the weights back, or start anew in another folder"
            )
        return MaskStream(hmac.digest(self._key, b"mask" + fresh, "sha256")).draw((1, length))
