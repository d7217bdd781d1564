"""Decides how many candidates and texts go through the model in one pass, by what memory holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secp_spu.config import TuningSection
from secp_spu.inference import sequences_within
from secp_spu.model import TransformerConfig
from secp_spu.runtime import Runtime
from secp_spu.tuning.inputs import Split

FINALISTS = 2
"""Prompts that each generation sends to the validation texts: its best candidate and the optimizer's mean, or instead
of the mean a point of the generation before that was better than all, evaluated once more, or p0."""

MEMORY_SHARE = 0.5
"""Share of a compute party's free memory that one pass may take; other processes want some too."""


@dataclass(frozen=True)
class Batching:
    """What goes through the model in one pass.

    Attributes:
        candidates: before the training texts.
        texts: of each split.
    """

    candidates: int
    texts: Mapping[Split, int]


def choose_batching(tuning: TuningSection, sizes: Mapping[Split, int], most: int) -> Batching:
    """The largest passes of at most `most` sequences, a sequence being one candidate before one text.

    As many candidates as fit before all training texts, or as `tuning.candidates_per_call` says; where not even one
    does, or not so many, texts are split too. What is split is split evenly, so that few shapes have to be compiled.

    Args:
        tuning: of the run.
        sizes: texts of each split.
        most: sequences of one pass, at least one.
    """
    candidates = min(tuning.candidates_per_call or max(1, most // sizes["training"]), tuning.candidates)
    prompts: dict[Split, int] = {"training": candidates, "validation": FINALISTS, "test": 1}
    texts = {split: even(size, max(1, most // prompts[split])) for split, size in sizes.items()}
    return Batching(even(tuning.candidates, candidates), texts)


def even(count: int, most: int) -> int:
    """The size of parts that are as many as with `most` each, but of one size as far as they can be.

    Args:
        count: of all together.
        most: of one part.
    """
    return math.ceil(count / math.ceil(count / most))


def sequences_that_fit(runtime: Runtime, transformer: TransformerConfig, tokens: int, *, keeping: bool = False) -> int:
    """How many sequences one pass may have at these parties; all of a cluster come to the same number.

    Args:
        runtime: that has the weights already.
        transformer: config of the transformer.
        tokens: of prompt and text together.
        keeping: what a backward pass reads is kept of all layers.
    """
    limit = int(MEMORY_SHARE * runtime.free_memory_bytes())
    return sequences_within(limit, transformer, tokens, keeping=keeping)
