"""Optimizers that step along gradients: by optax, for a data owner that gets the prompt's; or unseen, in shares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from secp_spu.optimizers.optimizer import Points
from secp_spu.trees import Floats

MOMENTUM = 0.9

RISE, SLACK = 1.2, 0.01
"""A loss above RISE times the least before, and SLACK, is more than what momentum alone explains: the step was too
long, or its direction wrong."""

Schedule = Literal["constant", "cosine"]
"""How the rate goes from step to step: not at all, or down to zero in half a cosine."""


@dataclass(frozen=True)
class Descent:
    """What an optimizer starts from.

    Attributes:
        length: of a point, which starts at zero.
        rate: of the first step; None for the optimizer's own.
        schedule: of the rate.
        steps: in all.
    """

    length: int
    rate: float | None
    schedule: Schedule
    steps: int

    def rates(self, usual: float) -> optax.ScalarOrSchedule:
        """The rate, or how it goes from step to step; usual: the optimizer's own."""
        rate = usual if self.rate is None else self.rate
        return optax.cosine_decay_schedule(rate, self.steps) if self.schedule == "cosine" else rate


class GradientOptimizer(ABC):
    """Steps from zero along gradients that the data owner gets; its course is decided by what it is told.

    Attributes:
        about: what it is, in a few words, for the description of the configuration's key.
        usual_rate: its rate where none is given, in standard deviations of the word embeddings.
        opens: the data owner gets the prompt's gradient.
    """

    about: ClassVar[str]
    usual_rate: ClassVar[float]
    opens: ClassVar[bool] = True

    def __init__(self, descent: Descent):
        self._transformation = self.make(descent.rates(self.usual_rate))
        self._point = jnp.zeros(descent.length)
        self._state = self._transformation.init(self._point)

    @staticmethod
    @abstractmethod
    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """The transformation, without weight decay."""

    def ask(self) -> Points:
        """Where the next gradient is to be taken [1, length]."""
        return self.mean[None]

    def tell(self, gradient: Floats) -> None:
        """Take the loss's derivative [length] at the point that was asked for last."""
        updates, self._state = self._transformation.update(jnp.asarray(gradient), self._state, self._point)
        self._point = optax.apply_updates(self._point, updates)

    @property
    def mean(self) -> Points:
        """The point so far [length]."""
        return np.asarray(self._point, np.float64)


class Adam(GradientOptimizer):
    """Source: Kingma and Ba 2015, arXiv 1412.6980."""

    about = "gradient descent by Adam"
    usual_rate = 0.1

    @staticmethod
    @override
    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.adam(rate)


class MomentumDescent(GradientOptimizer):
    """Source: Polyak 1964; momentum 0.9."""

    about = "gradient descent with momentum 0.9"
    usual_rate = 80.0

    @staticmethod
    @override
    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.sgd(rate, momentum=MOMENTUM)


class UnseenMomentum:
    """Gradient descent with momentum along directions that are not seen: all it is told are losses.

    A direction is a gradient's, of mean square one. A point is told by its coefficients, one for the direction of each
    step: v <- 0.9 v + direction, point <- point - rate v. Where the loss rose (RISE), the last step is taken back: the
    next one starts anew at the point of the least loss, along the direction there, with half the rate.

    Attributes:
        about, usual_rate, opens: as in `GradientOptimizer`.
    Source: normalised descent, Nesterov 1984; momentum, Polyak 1964.
    """

    about = "gradient descent with momentum 0.9, whose gradients stay in shares: it needs no `model.reveal`"
    usual_rate = 0.05
    opens = False

    def __init__(self, descent: Descent):
        rates = descent.rates(self.usual_rate)
        self._rate = rates if callable(rates) else optax.constant_schedule(rates)
        self._share, self._steps = 1.0, 0
        self._point, self._velocity = np.zeros(descent.length), np.zeros(descent.length)
        self._least, self._best, self._direction = math.inf, self._point, 0

    @property
    def mean(self) -> Points:
        """The point so far, as coefficients of all steps' directions [length]."""
        return self._point

    def ask(self) -> Points:
        """Where the next direction is to be taken [1, length]."""
        return self._point[None]

    def tell(self, loss: float) -> bool:
        """Take the loss at the point that was asked for last, whose gradient's direction is now known to nobody.

        Returns: whether the step before is taken back.
        """
        rose = loss > RISE * self._least + SLACK
        if loss < self._least:
            self._least, self._best, self._direction = loss, self._point, self._steps
        if rose:
            self._share, self._point, self._velocity = self._share / 2, self._best, np.zeros_like(self._velocity)
        latest = np.eye(1, len(self._point), self._direction if rose else self._steps)[0]
        self._velocity = MOMENTUM * self._velocity + latest
        self._point = self._point - float(self._rate(self._steps)) * self._share * self._velocity
        self._steps += 1
        return rose
