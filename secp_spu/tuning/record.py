"""The record of a run and its checkpoint file: enough to go on as if the run had not stopped.

The optimizer's state is not stored but replayed from its seed and the losses it was told, and every replayed
generation is compared with the fingerprint of the candidates that were evaluated: what is resumed is the run that
stopped, or an error. Masks are not part of it: they are made fresh, always.
"""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.files import write_whole
from secp_spu.runtime import Ledger
from secp_spu.runtime.ledger import LedgerState
from secp_spu.tuning.contents import contents_of, place_of
from secp_spu.tuning.differences import config_of_run, difference_of_course
from secp_spu.tuning.gradient import LARGEST_SCALE, SMALLEST_SCALE, unpacked, unpacked_elements
from secp_spu.tuning.logits import AGREEMENT

FILE_NAME = "checkpoint.json"


@dataclass(frozen=True)
class Usage:
    """What a run took so far, over all its sessions.

    Attributes:
        seconds: wall-clock time.
        forward_calls: evaluations of a prompt on a set of texts.
        ledger: state of the cost ledger.
    """

    seconds: float = 0.0
    forward_calls: int = 0
    ledger: LedgerState = field(default_factory=dict)


class RunState(TypedDict):
    """How far a run is, whether the untuned prompt was tested, and what the run took: everybody may know."""

    generations: int
    tested: bool
    seconds: float
    forward_calls: int
    ledger: LedgerState


@dataclass
class Generation:
    """What one generation leaves.

    Attributes:
        candidates: fingerprint.
        losses: of the candidates, in order.
        validation_loss: the smaller one of its finalists' (`Selection.finalists`), or in a generation that evaluates
            the pending point again the other's; infinite if none was plausible, None if none was evaluated.
        logits: of the candidates on the training texts [population, texts, labels], where the optimizer is told them.
        implausible: numbers of the candidates whose logits were not taken; the largest other loss stands for theirs.
        notes: what else was not taken, a sentence each.
        gradient: that the optimizer was told, see `gradient.packed`; empty if there was none, or it was implausible.
        direction: of a gradient that stays in shares, behind a mask, likewise.
        nonce: from which the model owner makes the mask again; empty in plaintext.
    """

    candidates: str
    losses: list[float]
    validation_loss: float | None = None
    logits: list[list[list[float]]] = field(default_factory=list)
    implausible: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gradient: str = ""
    direction: str = ""
    nonce: str = ""

    @property
    def hidden_direction(self) -> npt.NDArray[np.float32 | np.uint64]:
        """`direction` as ring elements behind their mask, or in plaintext itself; ValueError for what is neither."""
        return unpacked_elements(self.direction) if self.nonce else unpacked(self.direction)


@dataclass
class RunRecord:
    """The data owner's record of a run.

    Attributes:
        digest: of the configuration's values.
        contents: fingerprints of what its files hold, see `contents_of`.
        seed: of the run; the data owner's secret.
        initial_prompt: fingerprint of p0, which may come of another folder; empty before the run begins.
        generations: those finished.
        best: the best point z that two evaluations agree on; empty before the first.
        best_validation_loss: the larger one of its two losses on the validation examples.
        pending: a point of the last evaluation on the validation examples that is better, to be evaluated once more;
            empty if there is none.
        pending_loss: its loss on the validation examples.
        pending_again: the same of its second evaluation at the end of the run.
        waited: evaluations on the validation examples without a better loss, in a row.
        scale: of the next step's cotangents; None before the first.
        stopped: why the run ended before its last generation; empty if it did not.
        accuracy_before: of the untuned prompt on the test examples.
        accuracy_after: of the selected prompt, once the run has finished.
        usage: what the run took so far.
    """

    digest: str
    contents: dict[str, str]
    seed: int
    initial_prompt: str = ""
    generations: list[Generation] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    best_validation_loss: float = float("inf")
    pending: list[float] = field(default_factory=list)
    pending_loss: float = float("inf")
    pending_again: float | None = None
    waited: int = 0
    scale: float | None = None
    stopped: str = ""
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def selected(self) -> tuple[list[float], float]:
        """The tuned prompt's point and validation loss: the pending point's if its second evaluation confirms it."""
        if self.pending_again is not None and confirms(self.pending_again, self.pending_loss):
            loss = max(self.pending_again, self.pending_loss)
            if loss < self.best_validation_loss:
                return self.pending, loss
        return self.best, self.best_validation_loss

    def save(self, folder: Path) -> None:
        """Write atomically: an interruption leaves the file before or after, never between.

        Raises: ConfigError if the folder cannot be made or written.
        """
        try:
            write_whole(folder / FILE_NAME, json.dumps(asdict(self)).encode(), secret=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read what `save` wrote.

        Raises: ConfigError if it is missing or damaged.
        """
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if "digest" in content and "contents" not in content:
                raise ConfigError(
                    f"{path} is of a version of secp-spu that compared paths instead of contents: go on with that "
                    "version, or start anew in another folder"
                )
            content["generations"] = [Generation(**g) for g in content["generations"]]
            content["usage"] = Usage(**content["usage"])
            record = cls(**content)
            record._check()
            return record
        except ConfigError:
            raise
        except FileNotFoundError as error:
            raise ConfigError(f"{folder} holds no run to resume: leave `resume` away") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} is no checkpoint of this version, or damaged ({error}): start anew") from error

    def _check(self) -> None:
        """Raise ValueError or TypeError for fields that no run writes."""
        scale = SMALLEST_SCALE if self.scale is None else self.scale
        numbers = [
            self.seed,
            self.best_validation_loss,
            self.pending_loss,
            scale,
            self.waited,
            self.usage.seconds,
            self.usage.forward_calls,
        ]
        numbers += [*self.best, *self.pending]
        for generation in self.generations:
            numbers += generation.losses
            numbers += [] if generation.validation_loss is None else [generation.validation_loss]
            if not generation.losses or not np.isfinite(unpacked(generation.gradient)).all():
                raise ValueError("a generation's losses are missing, or its gradient is not finite")
            if not isinstance(generation.nonce, str) or not np.isfinite(generation.hidden_direction).all():
                raise ValueError("a generation's direction or nonce is none")
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE or self.waited < 0:
            raise ValueError("the scale of gradients or the count of waiting is out of range")
        if not all(isinstance(text, str) for text in (self.digest, *self.contents.keys(), *self.contents.values())):
            raise ValueError("a fingerprint is missing")
        if any(not isinstance(number, int | float) or math.isnan(number) for number in numbers):
            raise ValueError("a number is missing")
        points = [point for point in (self.best, self.pending) if point]
        found = (self.best, self.best_validation_loss), (self.pending, self.pending_loss)
        if any(bool(point) != math.isfinite(loss) for point, loss in found) or (points and not self.generations):
            raise ValueError("points and their losses do not fit")
        if max(len({len(g.losses) for g in self.generations}), len({len(point) for point in points})) > 1:
            raise ValueError("generations and their results do not fit")
        if self.usage.ledger:
            Ledger(1).restore(self.usage.ledger)


def confirms(again: float, before: float) -> bool:
    """Whether a second evaluation's loss tells that the first one's is right."""
    return abs(again - before) <= AGREEMENT


def open_run(folder: Path, config: Config, *, resume: bool) -> RunRecord:
    """The record to start from, for a folder that is to belong to this run alone; its first `save` claims it.

    Where the configuration has no seed, a new run draws one.

    Raises: ConfigError if the folder holds another run, the same run without `resume`, a longer one, or something else,
        or if a file that the configuration names holds something else than when the run began.
    """
    if resume:
        return _opened(folder, config)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose a folder")
    if (folder / FILE_NAME).exists():
        if RunRecord.load(folder).digest == config.digest():
            raise ConfigError(f"{folder} holds this run already: add `resume` to go on, or choose another folder")
        raise ConfigError(f"{folder} holds another run already{_difference(folder, config)}: choose another folder")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run: choose another folder")
    seed = secrets.randbits(63) if config.tuning.seed is None else config.tuning.seed
    return RunRecord(config.digest(), contents_of(config), seed)


def _opened(folder: Path, config: Config) -> RunRecord:
    """The record of a run that is to go on."""
    found = RunRecord.load(folder)
    if found.digest != config.digest():
        raise ConfigError(
            f"{folder} holds a run of another configuration{_difference(folder, config)}: choose another folder"
        )
    contents = contents_of(config)
    for name in sorted(found.contents.keys() & contents.keys()):
        if found.contents[name] != contents[name]:
            raise ConfigError(
                f"{place_of(name)} does not hold what it held when the run in {folder} began: put that back, or start "
                "anew in another folder"
            )
    if len(found.generations) > config.tuning.generations:
        raise ConfigError(
            f"tuning.generations: is {config.tuning.generations}, but the run in {folder} has made "
            f"{len(found.generations)}: it can be resumed with as many or more"
        )
    return found


def _difference(folder: Path, config: Config) -> str:
    """The first key in which a configuration differs from a run's, in brackets, if its folder tells."""
    before = config_of_run(folder)
    difference = before and difference_of_course(before, config)
    return f" ({difference})" if difference else ""
