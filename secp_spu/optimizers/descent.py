"""Optimizers that step along gradients, by optax; for a data owner that gets the prompt's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from secp_spu.optimizers.optimizer import Points
from secp_spu.trees import Floats

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


class GradientOptimizer(ABC):
    """Steps from zero along gradients; its course is decided by what it is told.

    Attributes:
        about: what it is, in a few words, for the description of the configuration's key.
        usual_rate: its rate where none is given, in standard deviations of the word embeddings.
    """

    about: ClassVar[str]
    usual_rate: ClassVar[float]

    def __init__(self, descent: Descent):
        rate = self.usual_rate if descent.rate is None else descent.rate
        falls = descent.schedule == "cosine"
        self._transformation = self.make(optax.cosine_decay_schedule(rate, descent.steps) if falls else rate)
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

    about = "gradient descent with momentum"
    usual_rate = 80.0

    @staticmethod
    @override
    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.sgd(rate, momentum=0.9)
