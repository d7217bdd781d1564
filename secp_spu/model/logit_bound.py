"""Bounds how large a model's logits can be, whatever text and prompt it reads: what tells wrong logits from right ones.

The label-word head ends with a norm and one dense layer. A norm's row z has sum(z) = 0 and |z|^2 <= width, so that

    |logit_j| = |z . (gain * w_j) + shift . w_j + b_j|  <=  sqrt(width) |gain * w_j|_2 + |shift . w_j + b_j|

for the column w_j and the bias b_j of label word j. The label-embedding head's logits are cosines times a scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from secp_spu.model.head import SIMILARITY_SCALE

SECURE_MARGIN = 9 / 8
"""Factor for the secure arithmetic. Its largest relative errors come from SPU's inverse roots, which have 18 fraction
bits: 4e-3 for a row of deviation 1,000."""


def label_word_limit(head: Any) -> float:
    """The size that no logit of the label words exceeds, a power of two.

    Args:
        head: parameters of `LabelWordHead`: "norm" with "scale" and "bias" [width], "decoder" with "kernel"
            [width, labels] and, of an encoder, "bias" [labels].
    """
    kernel = np.asarray(head["decoder"]["kernel"], np.float64)
    gain, shift = (np.asarray(head["norm"][name], np.float64) for name in ("scale", "bias"))
    constant = shift @ kernel + np.asarray(head["decoder"].get("bias", 0.0), np.float64)
    largest = math.sqrt(len(gain)) * np.linalg.norm(gain[:, None] * kernel, axis=0) + np.abs(constant)
    return _rounded_up(float(largest.max()))


def label_embedding_limit() -> float:
    """The size that no similarity to a label's embedding exceeds, a power of two."""
    return _rounded_up(SIMILARITY_SCALE)


def _rounded_up(size: float) -> float:
    """With the secure arithmetic's margin, to a power of two: coarse, so that it says little of the weights."""
    return 2.0 ** math.ceil(math.log2(max(size, 2.0**-18) * SECURE_MARGIN))
