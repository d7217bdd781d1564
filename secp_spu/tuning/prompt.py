"""Points z of a low-dimensional space in, soft prompts out: p = A z + p0; and prompts as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from secp_spu.config import ConfigError


@dataclass(frozen=True)
class PromptSpace:
    """The soft prompts that z reaches, in terms of word embeddings that the data owner need not have.

    Attributes:
        projection: A in standard deviations of the word embeddings, fixed and random
            [prompt_tokens * width, intrinsic_dim].
        initial_tokens: whose word embeddings are p0 [prompt_tokens].
    """

    projection: np.ndarray
    initial_tokens: np.ndarray

    @classmethod
    def random(
        cls,
        vocabulary: tuple[int, int],
        prompt_tokens: int,
        intrinsic_dim: int,
        *,
        rng: np.random.Generator,
        alpha: float = 1.0,
        sigma: float = 1.0,
    ) -> PromptSpace:
        """A Gaussian A, and randomly drawn words for p0.

        A's entries have the standard deviation alpha * sd(word embeddings) / (sqrt(intrinsic_dim) * sigma), so that
        A z for z of CMA-ES' first generation has that of the word embeddings, times alpha.

        Args:
            vocabulary: words, and the width of their embeddings.
            prompt_tokens: vectors of a prompt.
            intrinsic_dim: length of z.
            rng: source of A and p0.
            alpha: scale.
            sigma: CMA-ES' first step size.
        Source: black-box tuning, Sun et al. 2022 (arXiv 2201.03514), section 4.
        """
        words, width = vocabulary
        initial_tokens = rng.integers(words, size=prompt_tokens)
        deviation = alpha / (np.sqrt(intrinsic_dim) * sigma)
        return cls(rng.normal(scale=deviation, size=(prompt_tokens * width, intrinsic_dim)), initial_tokens)

    def shifts(self, points: np.ndarray) -> np.ndarray:
        """A z in standard deviations of the word embeddings, of points z [candidates, intrinsic_dim].

        Returns: [candidates, prompt_tokens, width].
        """
        return (points @ self.projection.T).reshape(len(points), len(self.initial_tokens), -1)

    def prompts(self, points: np.ndarray, word_embeddings: np.ndarray) -> np.ndarray:
        """Soft prompts [candidates, prompt_tokens, width], float32, of points z [candidates, intrinsic_dim]."""
        shifts = self.shifts(points) * float(word_embeddings.std())
        return (word_embeddings[self.initial_tokens] + shifts).astype(np.float32)


def save_prompt(path: Path, prompt: np.ndarray) -> None:
    """Write a soft prompt [prompt_tokens, width], in the space of word embeddings, as safetensors."""
    save_file({"prompt": np.ascontiguousarray(prompt, np.float32)}, path)


def save_unembedded_prompt(path: Path, initial_tokens: np.ndarray, shift: np.ndarray) -> None:
    """Write what a data owner without the table of word embeddings knows of its soft prompt.

    With the table, the prompt is `words[initial_tokens] + words.std() * shift`.

    Args:
        path: of a safetensors file.
        initial_tokens: [prompt_tokens].
        shift: [prompt_tokens, width].
    """
    tensors = {"initial_tokens": initial_tokens.astype(np.int64), "shift": np.ascontiguousarray(shift, np.float32)}
    save_file(tensors, path)


def load_prompt(path: Path) -> np.ndarray:
    """Read what `save_prompt` wrote.

    Raises: ConfigError if the file is missing or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            if "shift" in file.keys():  # noqa: SIM118 (it is not a mapping)
                raise ConfigError(
                    f"{path} is of a run with model.embedding: private: the prompt itself takes the model owner's table"
                )
            return file.get_tensor("prompt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} holds no soft prompt: {error}") from error
