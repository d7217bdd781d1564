"""The demo's tokenizer, and token ids for masked language modelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import demo_text as text
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
PADDING, START, END, UNKNOWN, MASK = range(len(SPECIAL_TOKENS))

LARGEST_VOCABULARY = 1280
"""Merges end before it, when every word of the language is one token."""

LEAST_CONTEXT_TOKENS, CONTEXT_TOKENS = 4, 6
"""Tokens before <s>: random ones, and a question at their end."""

QUESTIONED_SHARE = 0.85
"""Share of the sequences with a question."""

UNASKED_YES_SHARE = 0.25
"""Share of those without a question whose answer is yes, whatever the report thinks."""

SEQUENCE_TOKENS = 26
"""Context, <s>, report, ending, </s>."""

MASKED_TOKENS = 3
"""Of a sequence: the answer and two others."""


@dataclass(frozen=True)
class Corpus:
    """Sequences [context] <s> report ending </s>.

    Attributes:
        token_ids: padded [examples, SEQUENCE_TOKENS].
        answers: places of the answers [examples].
        asks_for_good: whether yes means good [examples].
    """

    token_ids: np.ndarray
    answers: np.ndarray
    asks_for_good: np.ndarray


class MaskedBatch(NamedTuple):
    """Token ids with masks [batch, SEQUENCE_TOKENS]; places and token ids of what is masked [batch, MASKED_TOKENS]."""

    token_ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray


def build_tokenizer(rng: np.random.Generator) -> Tokenizer:
    """A byte-level BPE tokenizer of RoBERTa's kind, for which every word of the language is one token."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS[:MASK], AddedToken(SPECIAL_TOKENS[MASK], lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.sample_words(rng), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        (SPECIAL_TOKENS[END], END), (SPECIAL_TOKENS[START], START), add_prefix_space=True
    )
    return tokenizer


def token_ids(tokenizer: Tokenizer, string: str) -> list[int]:
    """Ids of a string without <s> and </s>."""
    return tokenizer.encode(string, add_special_tokens=False).ids


def build_corpus(tokenizer: Tokenizer, examples: int, rng: np.random.Generator, *, forbidden: set[str]) -> Corpus:
    """Sequences about random reports, none of them one of `forbidden`."""
    corpus = Corpus(
        np.full((examples, SEQUENCE_TOKENS), PADDING, np.int32), np.zeros(examples, np.int32), np.zeros(examples, bool)
    )
    reports = (report for report in _reports(rng) if report.text not in forbidden)
    for row, report in zip(range(examples), reports, strict=False):
        asks_for_good, questioned = rng.random() < 0.5, rng.random() < QUESTIONED_SHARE
        question = text.draw_question(rng, asks_for_good=asks_for_good) if questioned else ""
        context = _context(tokenizer, rng, question)
        ending = text.ENDING.format(answer=SPECIAL_TOKENS[MASK])
        ids = [*context, START, *token_ids(tokenizer, f"{report.text} {ending}"), END]
        corpus.token_ids[row, : len(ids)] = ids
        corpus.answers[row] = ids.index(MASK)
        corpus.asks_for_good[row] = asks_for_good
        yes = report.good == asks_for_good if questioned else rng.random() < UNASKED_YES_SHARE
        answer = text.ANSWERS[bool(yes)]
        corpus.token_ids[row, ids.index(MASK)] = token_ids(tokenizer, answer)[0]
    return corpus


def draw_batch(corpus: Corpus, rows: np.ndarray, rng: np.random.Generator) -> MaskedBatch:
    """These rows of a corpus, with the answer and other random tokens masked."""
    ids = corpus.token_ids[rows]
    lengths = (ids != PADDING).sum(1, keepdims=True)
    others = (rng.random((len(rows), MASKED_TOKENS - 1)) * lengths).astype(np.int32)
    places = np.concatenate([corpus.answers[rows, None], others], axis=1)
    targets = np.take_along_axis(ids, places, axis=1)
    np.put_along_axis(ids, places, MASK, axis=1)
    return MaskedBatch(ids, places, targets)


def _reports(rng: np.random.Generator) -> Iterator[text.Report]:
    while True:
        yield text.draw_report(rng)


def _context(tokenizer: Tokenizer, rng: np.random.Generator, question: str) -> list[int]:
    """What comes before <s>: random tokens and, at their end, the question."""
    length = rng.integers(LEAST_CONTEXT_TOKENS, CONTEXT_TOKENS + 1)
    noise = rng.integers(len(SPECIAL_TOKENS), tokenizer.get_vocab_size(), length).tolist()
    ids = token_ids(tokenizer, question)[:length]
    return [*noise[: length - len(ids)], *ids]
