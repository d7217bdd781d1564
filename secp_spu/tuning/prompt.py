"""Soft prompts p = A z + p0 of points z in a low-dimensional space, and prompts as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secp_spu.errors import ConfigError
from secp_spu.files import write_whole
from secp_spu.trees import Floats, Ints

FILE_NAME = "prompt.safetensors"


@dataclass(frozen=True)
class SoftPrompt:
    """A soft prompt as far as its owner knows it, who need not have the table of word embeddings.

    The prompt is `start + words.std() * shift`, or `words[start] + words.std() * shift` where `start` holds tokens.

    Attributes:
        start: vectors [prompt_tokens, width], or tokens [prompt_tokens].
        shift: in standard deviations of the word embeddings [prompt_tokens, width].
    """

    start: Floats | Ints
    shift: Floats

    @classmethod
    def of_tokens(cls, tokens: Ints, width: int) -> SoftPrompt:
        """The word embeddings, of a width, of tokens [prompt_tokens]."""
        return cls(tokens, np.zeros((len(tokens), width), np.float32))

    @classmethod
    def of_vectors(cls, vectors: Floats) -> SoftPrompt:
        """The prompt itself [prompt_tokens, width]."""
        return cls(vectors, np.zeros_like(vectors))

    @property
    def of_words(self) -> bool:
        """It is in terms of tokens: the prompt itself takes the table of word embeddings."""
        return self.start.ndim == 1

    @property
    def tokens(self) -> Ints:
        """The tokens that it is in terms of [prompt_tokens]."""
        return self.start.astype(np.int64)

    def moved(self, shifts: Floats, words: Floats) -> npt.NDArray[np.float32]:
        """With other shifts than its own.

        Args:
            shifts: [..., prompt_tokens, width].
            words: the table of word embeddings [vocabulary, width].
        Returns: soft prompts in the space of word embeddings, float32 [..., prompt_tokens, width].
        """
        start = words[self.start] if self.of_words else self.start
        return (start + shifts * float(words.std())).astype(np.float32)

    def vectors(self, words: Floats) -> npt.NDArray[np.float32]:
        """The prompt itself, float32 [prompt_tokens, width]; words: the table of word embeddings."""
        return self.moved(self.shift, words)


@dataclass(frozen=True)
class PromptSpace:
    """The soft prompts that points z reach, in terms of word embeddings that the data owner need not have.

    Attributes:
        projection: A in standard deviations of the word embeddings, fixed and random
            [prompt_tokens * width, intrinsic_dim]; None where z is the shift itself.
        initial: p0.
    """

    projection: Floats | None
    initial: SoftPrompt

    @property
    def length(self) -> int:
        """Of a point."""
        return self.initial.shift.size if self.projection is None else self.projection.shape[1]

    @classmethod
    def random(
        cls,
        initial: SoftPrompt,
        intrinsic_dim: int,
        *,
        rng: np.random.Generator,
        alpha: float = 1.0,
        sigma: float = 1.0,
    ) -> PromptSpace:
        """A Gaussian A, whose entries have standard deviation alpha * sd(word embeddings) / (sqrt(d) * sigma).

        Args:
            initial: p0.
            intrinsic_dim: d, the length of z.
            rng: source of A.
            alpha: scale.
            sigma: CMA-ES' first step size.
        Source: black-box tuning, Sun et al. 2022 (arXiv 2201.03514), section 4.
        """
        deviation = alpha / (np.sqrt(intrinsic_dim) * sigma)
        return cls(rng.normal(scale=deviation, size=(initial.shift.size, intrinsic_dim)), initial)

    def shifts(self, points: Floats) -> Floats:
        """What is added to `initial.start`, A z and all, in standard deviations of the word embeddings.

        Args:
            points: z [candidates, length].
        Returns: [candidates, prompt_tokens, width].
        """
        moves = points if self.projection is None else points @ self.projection.T
        return self.initial.shift + moves.reshape(len(points), *self.initial.shift.shape)

    def of_point(self, of_shift: Floats) -> Floats:
        """The derivative by a point [length], by that of its shift [prompt_tokens, width]."""
        return of_shift.ravel() if self.projection is None else of_shift.ravel() @ self.projection

    def prompts(self, points: Floats, words: Floats) -> npt.NDArray[np.float32]:
        """Soft prompts [candidates, prompt_tokens, width], float32, of points z [candidates, intrinsic_dim]."""
        return self.initial.moved(self.shifts(points), words)

    def at(self, point: Floats) -> SoftPrompt:
        """The soft prompt of one point z [intrinsic_dim], without the table of word embeddings."""
        return SoftPrompt(self.initial.start, self.shifts(point[None])[0])


def save_prompt(path: Path, prompt: SoftPrompt) -> None:
    """Write a soft prompt as safetensors: `prompt`, or `initial_tokens` and `shift` where it is in terms of tokens.

    The file is for its owner's eyes alone.

    Raises: ValueError for vectors that are still to be shifted.
    """
    if prompt.of_words:
        shift = np.ascontiguousarray(prompt.shift, np.float32)
        tensors = {"initial_tokens": prompt.tokens, "shift": shift}
    elif prompt.shift.any():
        raise ValueError("prompt holds vectors and a shift: hand over SoftPrompt.of_vectors(prompt.vectors(words))")
    else:
        tensors = {"prompt": np.ascontiguousarray(prompt.start, np.float32)}
    write_whole(path, save(tensors), secret=True)


def load_prompt(path: Path) -> SoftPrompt:
    """Read what `save_prompt` wrote.

    Raises: ConfigError if the file is missing or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        if tensors.keys() != {"initial_tokens", "shift"}:
            return SoftPrompt.of_vectors(tensors["prompt"].astype(np.float32))
        tokens, shift = tensors["initial_tokens"], tensors["shift"]
        if tokens.dtype.kind != "i" or tokens.shape != shift.shape[:1]:
            raise ValueError(f"{tokens.dtype} tokens {tokens.shape} and a shift {shift.shape} are of no one prompt")
        return SoftPrompt(tokens, shift)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} holds no soft prompt ({error}): copy it anew from where it was tuned") from error
