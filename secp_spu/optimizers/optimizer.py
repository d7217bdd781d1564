"""What every gradient-free optimizer is given, asked and told."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from secp_spu.trees import Floats, Ints

Points: TypeAlias = npt.NDArray[np.float64]
"""A point z [intrinsic_dim], or several, one a row."""


@dataclass(frozen=True)
class Search:
    """What an optimizer starts from.

    Attributes:
        intrinsic_dim: length of a point z.
        population: candidates in a generation.
        sigma: standard deviation of the first generation's candidates around zero.
        seed: decides the optimizer's course, together with what it is told.
        labels: class numbers of the texts that candidates are judged on [texts]; for optimizers that read logits.
    """

    intrinsic_dim: int
    population: int
    sigma: float
    seed: list[int]
    labels: Ints


class Optimizer(ABC):
    """A gradient-free optimizer whose course is decided by its seed and by what it is told.

    Attributes:
        about: what it is, in a few words, for the description of the configuration's key.
        least_population: fewest candidates in a generation with which it works.
    """

    about: ClassVar[str]
    least_population: ClassVar[int] = 4

    @abstractmethod
    def __init__(self, search: Search): ...

    @abstractmethod
    def ask(self) -> Points:
        """The next generation's candidates [population, intrinsic_dim]."""

    @abstractmethod
    def tell(self, losses: Floats, logits: Floats) -> None:
        """Take the losses [population] and logits [population, texts, labels] of the candidates asked for last."""

    @property
    @abstractmethod
    def mean(self) -> Points:
        """The best guess so far [intrinsic_dim]."""

    @property
    def stopped_by(self) -> list[str]:
        """Names of the optimizer's own conditions to stop that are met; empty while it would go on."""
        return []


def fingerprint(candidates: Points) -> str:
    """SHA-256 of candidates, or of p0: shows whether a resumed run goes the way that its record says."""
    return hashlib.sha256(np.ascontiguousarray(candidates, np.float64).tobytes()).hexdigest()
