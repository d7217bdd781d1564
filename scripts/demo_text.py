"""The demo's language: random short reports on a visit, and questions about them.

A report holds one opinion, good or bad, in one or two clauses ("the soup was hardly warm and the waiter ignored us"). A
question asks whether it was good or whether it was bad, so the same report is answered by yes to one and no to the
other. Opinions come from adjectives, negated or not, from verbs and from little events, so that no single word gives
the answer away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_REPORT = 11
"""In words; longer ones are drawn again."""

NOUNS = (
    "soup pasta curry salad dessert coffee waiter waitress cook terrace|"
    "bed breakfast shower pillow pool porter receptionist maid room lobby|"
    "jacket lamp phone kettle bicycle camera cashier clerk salesman shop|"
    "doctor nurse surgeon dentist ward treatment clinic bandage|"
    "trainer coach instructor gym course sauna locker hall mat|"
    "train driver seat conductor ticket carriage platform journey timetable"
)
"""Of one kind of visit each."""

ADJECTIVES = (
    "excellent superb great lovely wonderful fantastic polite kind helpful fresh perfect reliable fair clean bright "
    "charming flawless splendid pleasant quick",
    "terrible dreadful awful horrible disappointing poor rude careless useless broken stale faulty dirty noisy shabby "
    "hopeless dull unpleasant slow worthless",
)
"""Good and bad ones."""

CLAUSES = (
    "i loved the {noun}|we praised the {noun}|i liked the {noun}|nobody could fault the {noun}|"
    "the {noun} made my day|we were happy with the {noun}|the {noun} surpassed all hopes|i recommend the {noun}|"
    "the {noun} was a joy",
    "i hated the {noun}|we cursed the {noun}|i disliked the {noun}|nobody could praise the {noun}|"
    "the {noun} ruined my day|we were unhappy with the {noun}|the {noun} let us down|i regret the {noun}|"
    "the {noun} was a shame",
)
"""Good and bad ones."""

DEGREES = "|very |really |quite |so |truly |rather |simply "
NEGATIONS = "not |never |hardly |far from "
LINKS = " and | , and | while | , also | as "
OPENINGS = "last week |on monday |in spring |yesterday |this time |as usual |in leeds |in oslo |at noon "

QUESTIONS = (
    "was it good ?|a success ?|any praise ?|worth it ?|were they pleased ?|satisfied ?|is it positive ?|"
    "would you return ?",
    "was it bad ?|a failure ?|any complaints ?|a waste ?|were they annoyed ?|angry ?|is it negative ?|"
    "would you leave ?",
)
"""Whether it was good, and whether it was bad."""

ANSWERS = {True: "yes", False: "no"}

ENDING = ": {answer}"
"""What follows a report."""


@dataclass(frozen=True)
class Report:
    """A text and its opinion."""

    text: str
    good: bool


def draw_report(rng: np.random.Generator) -> Report:
    """A random report."""
    while True:
        good = bool(rng.random() < 0.5)
        nouns = _pick(rng, NOUNS, "|")
        clauses = [_clause(rng, _pick(rng, nouns), good=good) for _ in range(rng.integers(1, 3))]
        opening = _pick(rng, OPENINGS, "|") if rng.random() < 0.25 else ""
        text = opening + _pick(rng, LINKS, "|").join(clauses)
        if len(text.split()) <= LONGEST_REPORT:
            return Report(text, good)


def draw_question(rng: np.random.Generator, *, asks_for_good: bool) -> str:
    """A question that `asks_for_good` reports are answered by yes to, and others by no."""
    return _pick(rng, QUESTIONS[not asks_for_good], "|")


def sample_words(rng: np.random.Generator, lines: int = 24_000) -> Iterator[str]:
    """Questions, reports and endings to train a tokenizer on."""
    for i in range(lines):
        question = draw_question(rng, asks_for_good=i % 2 == 0)
        yield f"{question} {draw_report(rng).text} {ENDING.format(answer=ANSWERS[i % 4 < 2])}"


def _clause(rng: np.random.Generator, noun: str, *, good: bool) -> str:
    """An opinion on a noun: by an adjective that may be negated, by a verb or by an event."""
    if rng.random() < 0.4:
        return _pick(rng, CLAUSES[not good], "|").format(noun=noun)
    negated = bool(rng.random() < 0.2)
    adjective = _pick(rng, ADJECTIVES[good == negated])
    return f"the {noun} was {_pick(rng, NEGATIONS if negated else DEGREES, '|')}{adjective}"


def _pick(rng: np.random.Generator, choices: str, separator: str = " ") -> str:
    options = choices.split(separator)
    return options[rng.integers(len(options))]
