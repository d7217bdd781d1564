"""A tokenizer of whole words, and files of random lines: what tests of adaptation read."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PAD, UNKNOWN, MASK, CLS, SEP = SPECIAL = range(5)
WORDS = [f"w{i}" for i in range(40)]
VOCABULARY = len(SPECIAL) + len(WORDS)


def write_tokenizer(path: Path, *, mask: str = "[MASK]") -> Path:
    """As BERT's: a text stands between [CLS] and [SEP]."""
    names = ["[PAD]", "[UNK]", mask, "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.save(str(path))
    return path


def write_lines(path: Path, count: int, *, words: tuple[int, int] = (3, 14), seed: int = 1) -> Path:
    """Different lines of that many words each, from the first number to below the second."""
    rng, lines = np.random.default_rng(seed), set()
    while len(lines) < count:
        lines.add(" ".join(rng.choice(WORDS, rng.integers(*words))))
    path.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
    return path
