"""What a data owner makes of a gradient, in plaintext: cotangents of its loss, and the derivative by its point.

The cotangents that it shares are scaled by a power of two, its own secret, so that those of the layers use the fraction
bits that they have under MPC. What comes back is of the summed losses of all texts.
"""

from __future__ import annotations

import base64
import math

import numpy as np
import numpy.typing as npt

from secp_spu.errors import RuntimeFailure
from secp_spu.model.precision import SUM_BITS
from secp_spu.protocol import from_storage
from secp_spu.trees import Floats, Ints
from secp_spu.tuning.logits import HINGE_MARGIN

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-4, 2.0**18
"""A gradient that is implausible even at the smallest is no matter of its scale."""

WANTED = 16.0, 64.0
"""Between which the largest number of a gradient is to be, scaled, for one text whose loss has the largest slope there
is, 1. Of the layers' cotangents the largest are 7 to 17 times that for MiniLM, and 2,048 have room (COTANGENT_BITS)."""

FIRST = 32.0
"""What a scale times the steepness that the model owner names is at a run's first step, and at all whose gradients
nobody sees. Steepness is of single random texts, some 4 to 8 times that of a mean over a task's texts on MiniLM, and
once to four times below it on the demo's model, whose losses are flat where it is steep."""

IMPLAUSIBLE = 128.0
"""A gradient that is longer, scaled and for one text, has met cotangents that left the ring, or a truncation gone
wrong. Overflow within the layers of the demo was seen to leave 200 to 850, and at the end of them it leaves 2**40."""

GROWTH = 4.0
"""What the scale is multiplied by at most from step to step."""

SMALLER = 2.0**-4
"""What the scale is multiplied by after an implausible gradient."""

LEAST_SLOPE = 1e-3
"""Of the texts' losses on average: with less, a gradient is little but the arithmetic's noise, and the scale stays."""


def cotangents(kind: str, logits: Floats, labels: Ints) -> Floats:
    """The derivative of each text's loss by its logits.

    Args:
        kind: "cross_entropy" or "hinge", see `losses`.
        logits: [texts, labels].
        labels: numbers [texts].
    Returns: [texts, labels].
    """
    of_label = np.eye(logits.shape[-1])[labels]
    if kind == "hinge":
        others = np.where(of_label > 0, -np.inf, logits)
        largest = np.eye(logits.shape[-1])[others.argmax(-1)]
        violated = HINGE_MARGIN - (logits * of_label).sum(-1) + others.max(-1) > 0
        slope: Floats = violated[:, None] * (largest - of_label)
    else:
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        slope = powers / powers.sum(-1, keepdims=True) - of_label
    return slope


def decoded(opened: Floats, scale: float, texts: int) -> Floats | None:
    """The mean loss's derivative by what the first layer reads, of what was opened; None if it is implausible.

    Args:
        opened: scaled, summed over texts, encoded with SUM_BITS fraction bits.
        scale: of the cotangents.
        texts: how many there were.
    """
    of_text = from_storage(np.asarray(opened, np.float64), SUM_BITS, secure=False) / texts
    if not np.abs(of_text).max() < IMPLAUSIBLE:  # NaN is not less
        return None
    found: Floats = of_text / scale
    return found


def first_scale(steepness: object) -> float:
    """The scale of a run's first step, a power of two.

    Args:
        steepness: that the model owner names, see `steepness_of`.
    Raises: RuntimeFailure for one that cannot be.
    """
    if not isinstance(steepness, float) or not 0 < steepness < math.inf:
        raise RuntimeFailure("the model owner names no steepness: install the same secp-spu at all parties")
    return float(np.clip(2.0 ** math.floor(math.log2(FIRST / steepness)), SMALLEST_SCALE, LARGEST_SCALE))


def next_scale(scale: float, gradient: Floats | None, slopes: Floats) -> float:
    """The scale of the next step, a power of two: as WANTED says, if the model is as steep there as at this gradient.

    It does not depend on how steep the losses are, which may be flat at this step and not at the next.

    Args:
        scale: of the last step.
        gradient: which it gave, without the scale; None if it was implausible.
        slopes: the losses' derivatives by logits [texts, labels], without the scale.
    """
    if gradient is None:
        return scale * SMALLER
    slope = float(np.abs(slopes).max(-1).mean())
    steepness = float(np.abs(gradient).max()) / max(slope, LEAST_SLOPE)
    if slope < LEAST_SLOPE or steepness == 0:
        return scale
    least, most = (wanted / steepness for wanted in WANTED)
    wanted = min(max(scale, 2.0 ** math.ceil(math.log2(least))), 2.0 ** math.floor(math.log2(most)))
    return float(np.clip(min(wanted, scale * GROWTH), SMALLEST_SCALE, LARGEST_SCALE))


def packed(values: npt.NDArray[np.generic]) -> str:
    """An array as a record keeps it: its bytes in base 64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def unpacked(text: str) -> npt.NDArray[np.float32]:
    """The reverse for float32, as one row; ValueError for what is none."""
    return np.frombuffer(base64.b64decode(text, validate=True), np.float32)


def unpacked_elements(text: str) -> npt.NDArray[np.uint64]:
    """The reverse for ring elements, likewise."""
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint64)
