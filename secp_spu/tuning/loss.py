"""Logits and labels in, losses and accuracy out: the data owner's plaintext arithmetic."""

import numpy as np

HINGE_MARGIN = 2.0
"""Margin of the hinge loss, as in black-box tuning (Sun et al. 2022)."""


def losses(kind: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
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
        return np.maximum(HINGE_MARGIN - of_label + others.max(-1), 0).mean(-1)
    largest = logits.max(-1)
    return (largest + np.log(np.exp(logits - largest[..., None]).sum(-1)) - of_label).mean(-1)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of texts [texts, labels] whose largest logit is their label's [texts]; NaN is nobody's."""
    return float(((logits.argmax(-1) == labels) & ~np.isnan(logits).any(-1)).mean())
