"""What a data owner makes of opened logits, in plaintext: losses, accuracy, and which no model can have given.

Under MPC a truncation goes wrong with a small probability, which doubles with every bit of the number's size, and a
number beyond the ring wraps around. Both leave an error of the ring's own size. Where no norm follows, the logit is
beyond any bound; where one follows, the logit is of a plausible size and wrong. The bound finds the first kind, and a
second evaluation of what is to be selected finds the other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from secp_spu.errors import RuntimeFailure
from secp_spu.trees import Floats, Ints

HINGE_MARGIN = 2.0
"""Margin of the hinge loss, as in black-box tuning (Sun et al. 2022)."""

AGREEMENT = 0.1
"""Largest difference between two evaluations' losses of one prompt that count as the same: ten times what the secure
arithmetic's error moves a loss of the demo by."""

FLAT = 1e-3
"""Difference of losses up to which prompts are alike. Losses of equal prompts differed by 2.5e-4 in a generation of the
demo under ABY3. Losses of the demo's candidates differ by 0.6 at first, and by 1.6e-3 in generation 40."""

LARGEST_LIMIT = 2.0**20
"""Largest bound of its logits that a model owner may name: a larger one would find nothing."""


def losses(kind: str, logits: Floats, labels: Ints) -> Floats:
    """Mean loss of every candidate.

    Args:
        kind: "cross_entropy" or "hinge".
        logits: [candidates, texts, labels].
        labels: numbers [texts].
    Returns: [candidates].
    """
    of_label = np.take_along_axis(logits, labels[None, :, None], -1)[..., 0]
    if kind == "hinge":
        others = np.where(np.arange(logits.shape[-1]) == labels[:, None], -np.inf, logits)
        means: Floats = np.maximum(HINGE_MARGIN - of_label + others.max(-1), 0).mean(-1)
    else:
        largest = logits.max(-1)
        means = (largest + np.log(np.exp(logits - largest[..., None]).sum(-1)) - of_label).mean(-1)
    return means


def accuracy(logits: Floats, labels: Ints) -> float:
    """Share of texts [texts, labels] whose largest logit is their label's [texts]; NaN is nobody's."""
    return float(((logits.argmax(-1) == labels) & ~np.isnan(logits).any(-1)).mean())


def check_limit(limit: float) -> float:
    """The bound of the logits that the model owner names, as a float.

    Raises: RuntimeFailure for anything but a number from 0 to LARGEST_LIMIT.
    """
    if not isinstance(limit, int | float) or not math.isfinite(limit) or not 0 < limit <= LARGEST_LIMIT:
        raise RuntimeFailure(
            f"the model owner's bound of the logits is {limit!r}, but must be a number above 0 and at most "
            f"{LARGEST_LIMIT:,.0f}: its model's head has weights that are damaged or far too large"
        )
    return float(limit)


def plausible(logits: Floats, limit: float) -> npt.NDArray[np.bool_]:
    """Which texts' logits are finite and within the bound.

    A loss of plausible logits is plausible too: cross-entropy is then at least log(1 + (labels - 1) exp(-2 limit)).

    Args:
        logits: [..., labels].
        limit: largest size of a logit.
    Returns: bool [...].
    """
    within: npt.NDArray[np.bool_] = np.less_equal(np.abs(logits), limit).all(-1)  # NaN is not less or equal
    return within
