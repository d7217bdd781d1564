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
    """The soft prompts that z reaches.

    Attributes:
        projection: A, fixed and random [prompt_tokens * width, intrinsic_dim].
        initial: p0 [prompt_tokens, width].
    """

    projection: np.ndarray
    initial: np.ndarray

    @classmethod
    def random(
        cls,
        word_embeddings: np.ndarray,
        prompt_tokens: int,
        intrinsic_dim: int,
        *,
        rng: np.random.Generator,
        alpha: float = 1.0,
        sigma: float = 1.0,
    ) -> PromptSpace:
        """A Gaussian A, and the embeddings of randomly drawn words as p0.

        A's entries have the standard deviation alpha * sd(word embeddings) / (sqrt(intrinsic_dim) * sigma), so that
        A z for z of CMA-ES' first generation has that of the word embeddings, times alpha.

        Args:
            word_embeddings: [vocabulary, width].
            prompt_tokens: vectors of a prompt.
            intrinsic_dim: length of z.
            rng: source of A and p0.
            alpha: scale.
            sigma: CMA-ES' first step size.
        Source: black-box tuning, Sun et al. 2022 (arXiv 2201.03514), section 4.
        """
        words = rng.integers(len(word_embeddings), size=prompt_tokens)
        deviation = alpha * float(word_embeddings.std()) / (np.sqrt(intrinsic_dim) * sigma)
        shape = (prompt_tokens * word_embeddings.shape[1], intrinsic_dim)
        return cls(rng.normal(scale=deviation, size=shape), word_embeddings[words].astype(np.float64))

    def prompts(self, points: np.ndarray) -> np.ndarray:
        """Soft prompts [candidates, prompt_tokens, width] of points z [candidates, intrinsic_dim], float32."""
        shifts = (points @ self.projection.T).reshape(len(points), *self.initial.shape)
        return (self.initial + shifts).astype(np.float32)


def save_prompt(path: Path, prompt: np.ndarray) -> None:
    """Write a soft prompt [prompt_tokens, width], in the space of word embeddings, as safetensors."""
    save_file({"prompt": np.ascontiguousarray(prompt, np.float32)}, path)


def load_prompt(path: Path) -> np.ndarray:
    """Read what `save_prompt` wrote.

    Raises: ConfigError if the file is missing or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            return file.get_tensor("prompt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} holds no soft prompt: {error}") from error
