"""Gauss-Newton steps on the cross-entropy, from the logits of candidates and without gradients."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from secp_spu.optimizers.optimizer import Optimizer, Points, Search
from secp_spu.trees import Floats

PROPOSALS = (1.0, 6.0)
"""Dampings, in units of the current one, of the points that a generation proposes: the second is the shorter step."""

SMALLER, LARGER = 0.5, 3.0
"""What the damping is multiplied by after a proposal that lowers the loss, and after one that does not."""

PRIOR = 0.0005
"""Weight of |z|^2 / 2 beside the mean loss: p0 is where the model knows its way."""

NEWTON_STEPS = 8
"""On the local model, which is convex."""


class GaussNewton(Optimizer):
    """The data owner sees all logits, so a candidate tells it texts * labels numbers, not one loss.

    A matrix J approximates how the logits move with z. Each generation asks for two proposals and for directions around
    the first; all answers correct J (Broyden's secants), so that it is complete after about intrinsic_dim evaluations
    and follows the point after that. A proposal minimises, around the best point b with logits y,

        cross_entropy(y + J (z - b)) + damping |z - b|^2 / 2 + PRIOR |z|^2 / 2,

    which is convex and solved here, in plaintext.

    Source: Levenberg 1944, Marquardt 1963 (damping); Broyden 1965 (secants).
    """

    about = "Gauss-Newton steps, which use all logits instead of the losses"

    def __init__(self, search: Search):
        intrinsic_dim = search.intrinsic_dim
        self._rng, self._population, self._labels = np.random.default_rng(search.seed), search.population, search.labels
        # Candidates as far from the point as those of an evolution strategy, and far above what fixed point adds.
        self._radius = search.sigma * np.sqrt(intrinsic_dim)
        self._damping = 3e-3
        self._mean: Points = np.zeros(intrinsic_dim)
        self._loss, self._logits = np.inf, np.zeros(0)
        self._jacobian = np.zeros((0, intrinsic_dim))
        self._basis = np.zeros((0, intrinsic_dim))
        self._asked = np.zeros((0, intrinsic_dim))

    @property
    @override
    def mean(self) -> Points:
        return self._mean

    @override
    def ask(self) -> Points:
        """Proposals, then random orthonormal directions around the first of them."""
        proposals = [self._mean] if not len(self._logits) else [self._propose(f * self._damping) for f in PROPOSALS]
        directions = self._radius * self._directions(self._population - len(proposals))
        self._asked = np.concatenate([np.stack(proposals), proposals[0] + directions])
        return self._asked

    def _directions(self, count: int) -> Points:
        """The next rows of random orthonormal bases, one after another."""
        dim = len(self._mean)
        while len(self._basis) < count:
            fresh, _ = np.linalg.qr(self._rng.standard_normal((dim, dim)))
            self._basis = np.concatenate([self._basis, fresh.T])
        taken, self._basis = self._basis[:count], self._basis[count:]
        return taken

    @override
    def tell(self, losses: Floats, logits: Floats) -> None:
        logits = logits.astype(np.float64)  # as records have them, or a resumed run would propose others
        if not len(self._logits):
            self._jacobian = np.zeros((logits[0].size, len(self._mean)))
            self._take(self._asked[0], losses[0], logits[0])
            proposals = 1
        else:
            proposals = len(PROPOSALS)
            lowered = losses[:proposals].min() < self._loss
            self._damping = float(np.clip(self._damping * (SMALLER if lowered else LARGER), 1e-4, 1e2))
        for i in [*range(proposals, len(losses)), *range(proposals)]:
            anchor = (self._asked[0], logits[0]) if i >= proposals else (self._mean, self._logits)
            self._correct(self._asked[i] - anchor[0], (logits[i] - anchor[1]).ravel())
        best = int(losses.argmin())
        if losses[best] < self._loss:
            self._take(self._asked[best], losses[best], logits[best])

    def _take(self, point: Points, loss: float, logits: Floats) -> None:
        self._mean, self._loss, self._logits = point.copy(), float(loss), logits.astype(np.float64)

    def _correct(self, step: Points, change: Floats) -> None:
        """Broyden's update: J takes the step to the change, and is left alone across it."""
        length = float(step @ step)
        if length > 1e-12:
            self._jacobian += np.outer(change - self._jacobian @ step, step) / length

    def _propose(self, damping: float) -> Points:
        """The minimum of the local model, by Newton's method with the softmax's exact curvature."""
        texts, labels = self._logits.shape
        wanted = np.eye(labels)[self._labels]
        step, dim = np.zeros(len(self._mean)), len(self._mean)
        jacobian = self._jacobian.reshape(texts, labels, dim)
        for _ in range(NEWTON_STEPS):
            moved = self._logits + jacobian @ step
            share = np.exp(moved - moved.max(-1, keepdims=True))
            share /= share.sum(-1, keepdims=True)
            slope = np.einsum("tld,tl->d", jacobian, share - wanted) / texts
            slope += damping * step + PRIOR * (self._mean + step)
            centred = jacobian - np.einsum("tl,tld->td", share, jacobian)[:, None]
            curvature = np.einsum("tl,tld,tle->de", share, centred, centred, optimize=True) / texts
            step = step - np.linalg.solve(curvature + (damping + PRIOR) * np.eye(dim), slope)
        return self._mean + step
