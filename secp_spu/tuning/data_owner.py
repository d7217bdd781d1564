"""The data owner: texts, labels, prompts, losses and the optimizer, all of which stay with it in plaintext."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secp_spu.config import Config, TaskSection, save_config
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.inference import SHIFT_BITS
from secp_spu.optimizers import (
    GRADIENT_OPTIMIZERS,
    OPTIMIZERS,
    Descent,
    GradientOptimizer,
    Optimizer,
    Search,
    UnseenMomentum,
    fingerprint,
)
from secp_spu.protocol import FRACTION_BITS, from_storage, to_storage
from secp_spu.runtime.ledger import LedgerReport
from secp_spu.trees import Floats, Ints
from secp_spu.tuning.differences import CONFIG_NAME
from secp_spu.tuning.directions import POINT_BITS
from secp_spu.tuning.gradient import (
    GROWTH,
    SMALLEST_SCALE,
    cotangents,
    decoded,
    first_scale,
    next_scale,
    packed,
    unpacked,
)
from secp_spu.tuning.initial_prompt import make_initial_prompt, prompt_generator
from secp_spu.tuning.inputs import InputOwner, PromptSet, Split
from secp_spu.tuning.logits import FLAT, accuracy, losses, plausible
from secp_spu.tuning.prompt import FILE_NAME, PromptSpace, SoftPrompt, save_prompt
from secp_spu.tuning.record import Generation, RunState, Usage, open_run
from secp_spu.tuning.run_report import REPORT, BatchingReport, describe_generation, write_report
from secp_spu.tuning.selection import Selection
from secp_spu.tuning.task import Example, TaskTokenizer, TokenBatch, draw_few_shot, read_examples


@dataclass(frozen=True)
class Texts:
    """A set of the data owner's texts, as the model wants them, and their labels."""

    tokens: TokenBatch
    labels: Ints


def read_splits(section: TaskSection, tokenizer: TaskTokenizer, seed: int) -> dict[Split, Texts]:
    """The few-shot training and validation texts that a seed draws, and the test texts.

    Raises: ConfigError for files that cannot be read, hold too few examples, or texts that do not fit.
    """
    pool, test = read_examples(section.pool, section), read_examples(section.test, section)
    training, validation = draw_few_shot(pool, section, seed)
    splits: dict[Split, list[Example]] = {
        "training": training,
        "validation": validation,
        "test": test[: section.test_examples],
    }
    return {
        name: Texts(tokenizer.encode(examples, section), np.array([e.label for e in examples]))
        for name, examples in splits.items()
    }


class DataOwner(InputOwner):
    """What only the data owner may see, with the methods that the driver calls by name.

    Args:
        config: of the run.
        folder: for the outputs and the run's record, which is written after every generation.
        resume: go on with the run in the folder, whose optimizer is replayed.
    Raises: ConfigError for a task, tokenizer or record that does not fit.
    """

    def __init__(self, config: Config, folder: Path, *, resume: bool):
        self._record, self._folder = open_run(folder, config, resume=resume), folder
        self._selection = Selection(self._record)
        super().__init__(config)
        self._texts = read_splits(config.task, self._tokenizer, self._record.seed)
        self._tokens = {split: texts.tokens for split, texts in self._texts.items()}
        tuning, rng = config.tuning, prompt_generator(self._record.seed)
        self._initial = make_initial_prompt(config, self._transformer, self._tokenizer, rng=rng)
        self._refuse_another_initial_prompt()
        self._space = PromptSpace(None, self._initial)
        self._tuned_shift: Floats | None = None
        if tuning.intrinsic_dim is not None:
            self._space = PromptSpace.random(
                self._initial, tuning.intrinsic_dim, rng=rng, alpha=tuning.alpha, sigma=tuning.sigma
            )
        self._length = tuning.generations if tuning.hides_gradients else self._space.length
        self._optimizer = self._make_optimizer()
        self._replay()
        self._candidates: npt.NDArray[np.float64] = np.zeros((0, self._length))
        self._finalists = self._candidates

    def _make_optimizer(self) -> Optimizer | GradientOptimizer | UnseenMomentum:
        tuning = self._config.tuning
        if tuning.uses_gradients:
            descent = Descent(self._length, tuning.rate, tuning.schedule, tuning.generations)
            return GRADIENT_OPTIMIZERS[tuning.optimizer](descent)
        labels = self._texts["training"].labels
        search = Search(self._length, tuning.candidates, tuning.sigma, [self._record.seed, 2], labels)
        return OPTIMIZERS[tuning.optimizer](search)

    def _replay(self) -> None:
        """Bring a fresh optimizer to where the recorded run stopped."""
        for number, done in enumerate(self._record.generations, 1):
            if self._fingerprint(self._optimizer.ask()) != done.candidates:
                raise ConfigError(
                    f"{self._folder}: the candidates of generation {number} come out different on this machine: "
                    "resume where the run was started"
                )
            if isinstance(self._optimizer, Optimizer):
                self._optimizer.tell(np.array(done.losses), np.array(done.logits))
            elif isinstance(self._optimizer, UnseenMomentum):
                self._require(done.hidden_direction.shape == (self._initial.shift.size,), "direction", number)
                self._optimizer.tell(min(done.losses))
            elif done.gradient:
                gradient = unpacked(done.gradient)
                self._require(gradient.shape == (self._length,), "gradient", number)
                self._optimizer.tell(gradient)
        for name in (
            ("best", "pending") if self._config.tuning.hides_gradients else ()
        ):  # a run may be resumed with more steps
            if point := getattr(self._record, name):
                setattr(self._record, name, [*point, *[0.0] * (self._length - len(point))])

    def _require(self, sound: bool, what: str, number: int) -> None:
        if not sound:
            raise ConfigError(f"{self._folder}: the {what} of generation {number} is damaged: start anew")

    def _fingerprint(self, points: npt.NDArray[np.float64]) -> str:
        """Of candidates; of one that is in terms of directions, however many steps the run has."""
        return fingerprint(
            points[:, : len(np.trim_zeros(points[0], "b"))] if self._config.tuning.hides_gradients else points
        )

    def _refuse_another_initial_prompt(self) -> None:
        """A run that goes on from another p0 would hold losses and a best z of the one before."""
        found = fingerprint(np.concatenate([self._initial.start.ravel(), self._initial.shift.ravel()]))
        if self._record.initial_prompt not in ("", found):
            raise ConfigError(
                f"{self._folder}: what tuning.initial_prompt names has changed since the run began: put back the "
                "prompt that was there, or start anew in another folder"
            )
        self._record.initial_prompt = found

    def is_finished(self) -> bool:
        """Whether the run in the folder has nothing left to do, and its outputs are there."""
        there = all((self._folder / name).exists() for name in (FILE_NAME, REPORT))
        return self._record.accuracy_after is not None and self.has_ended() and there

    def has_ended(self) -> bool:
        """Whether no generation is left to make: all are made, or the run was stopped. Everybody may know."""
        return bool(self._record.stopped) or len(self._record.generations) == self._config.tuning.generations

    def why_stopped(self) -> str | None:
        """A line for the data owner on why the run ended before its last generation, if it did."""
        return self._record.stopped or None

    def begin(self) -> None:
        """Claim the folder for this run, and leave its configuration there."""
        self._record.save(self._folder)
        save_config(self._config, self._folder / CONFIG_NAME)

    def prompts(self, which: PromptSet, first: int, last: int) -> Floats:
        """Prompts first..last - 1 of a set, ready for the first layer [prompts, prompt_tokens, width].

        The leaders are the best and the pending point; where there is but one, it stands twice.

        Without embedding tables what is to be added to p0's words, in standard deviations of the word embeddings.
        """
        return self._for_sharing(self._space.shifts(self._points(which)[first:last]))

    def points(self, which: PromptSet, first: int, last: int) -> Floats:
        """The same prompts in terms of directions that stay in shares, for `Directions` [prompts, generations]."""
        return to_storage(self._points(which)[first:last].astype(np.float32), POINT_BITS)

    def _points(self, which: PromptSet) -> Floats:
        points: dict[PromptSet, Callable[[], Floats]] = {
            "untuned": lambda: np.zeros((1, self._length)),
            "candidates": lambda: self._candidates,
            "finalists": lambda: self._finalists,
            "leaders": lambda: self._selection.leaders,
            "best": lambda: np.array([self._record.selected[0]]),
        }
        return points[which]()

    def direction_nonces(self) -> list[str]:
        """Of the directions that a run before has left, in order; everybody may know them."""
        return [made.nonce for made in self._record.generations]

    def masked_directions(self, steps: int, length: int) -> npt.NDArray[np.generic]:
        """These directions, each behind its mask, and zeros for those to come [steps, length]."""
        kept = [made.hidden_direction for made in self._record.generations]
        dtype = np.float32 if self._config.protocol == "plaintext" else np.uint64
        rows = np.zeros((steps, length), dtype)
        if kept:
            rows[: len(kept)] = kept
        return rows

    def ask(self) -> None:
        """Propose the next generation's candidates."""
        self._candidates = self._optimizer.ask()

    def tell(self, logits: list[list[Floats]]) -> None:
        """Take the candidates' logits on the training texts, and propose two finalists.

        Args:
            logits: for each part of the candidates those of each batch of texts.
        Raises: RuntimeFailure if no candidate's logits are plausible.
        """
        if not isinstance(self._optimizer, Optimizer):
            raise RuntimeFailure(f"the optimizer {self._config.tuning.optimizer} steps along gradients: call `descend`")
        answers, told, refused = self._trusted(np.concatenate([self._answers("training", part) for part in logits]))
        self._optimizer.tell(told, answers)
        # Only Gauss-Newton's course depends on more than the losses, so only its record has to keep more.
        kept = answers.tolist() if self._config.tuning.optimizer == "gauss-newton" else []
        self._note(Generation(self._fingerprint(self._candidates), told.tolist(), logits=kept, implausible=refused))
        self._record.stopped = self._reason_to_stop(self._optimizer, told)
        self._finalists = self._selection.finalists(self._candidates[told.argmin()], self._optimizer.mean)

    def _note(self, made: Generation) -> None:
        """Add a generation to the record; what was found after fewer of them holds no more."""
        self._record.accuracy_after, self._record.pending_again = None, None
        self._record.generations.append(made)

    def expect_steepness(self, steepness: float) -> None:
        """Take the steepness that the model owner names, for the first step's scale.

        Raises: RuntimeFailure for one that cannot be.
        """
        scale = first_scale(steepness)
        if self._record.scale is None:
            self._record.scale = scale

    @property
    def _scale(self) -> float:
        if self._record.scale is None:
            raise RuntimeFailure("no steepness was named: call `expect_steepness`")
        return self._record.scale

    def cotangents(self, first: int, last: int, logits: Floats) -> Floats:
        """The loss's derivative by the logits of training texts first..last - 1, scaled, for sharing.

        Args:
            first, last: which texts.
            logits: of the prompt that was asked for last [texts, labels]; where they are implausible it is zero.
        Returns: float32 [texts, labels].
        """
        trusted = plausible(logits, self._logit_limit)[:, None]
        labels = self._texts["training"].labels[first:last]
        slopes = cotangents(self._config.tuning.loss, np.where(trusted, logits, 0), labels)
        return np.where(trusted, slopes * self._scale, 0).astype(np.float32)

    def descend(self, logits: list[Floats], opened: Floats) -> None:
        """Take a step: of the logits on the training texts, batch by batch, and the gradient that came of them.

        A gradient that is implausible is not taken: the next step is from the same point, with a smaller scale.

        Raises: RuntimeFailure if no text's logits are plausible, or no gradient at any scale.
        """
        if not isinstance(self._optimizer, GradientOptimizer):
            raise RuntimeFailure(f"the optimizer {self._config.tuning.optimizer} sees no gradient")
        made, answers, labels = self._step(logits)
        if not len(answers):
            raise self._implausible("the logits of all texts")
        record, scale = self._record, self._scale
        gradient = decoded(opened, scale, len(answers))
        record.scale = next_scale(scale, gradient, cotangents(self._config.tuning.loss, answers, labels))
        if gradient is None:
            if record.scale < SMALLEST_SCALE:
                raise self._implausible("the gradient, at any scale,")
            made.notes.append(f"the gradient was implausible, and is taken again at the scale {record.scale:g}")
        else:
            of_shift = self._of_shifts(self._space.shifts(self._candidates), gradient)
            made.gradient = packed(self._space.of_point(of_shift).astype(np.float32))
            self._optimizer.tell(unpacked(made.gradient))
        self._end_step(made)

    def descend_unseen(self, logits: list[Floats], nonce: str, masked: npt.NDArray[np.generic]) -> None:
        """Take a step along a direction that stays in shares: of the logits, and what the checkpoint keeps of it.

        Where the loss rose, or no text's logits are plausible, the step before is taken back, and the scale lowered.

        Raises: RuntimeFailure if p0's logits are implausible.
        """
        if not isinstance(self._optimizer, UnseenMomentum):
            raise RuntimeFailure(f"the optimizer {self._config.tuning.optimizer} has no directions in shares")
        made, answers, _ = self._step(logits)
        if not len(answers) and not self._record.generations:
            raise self._implausible("the logits of all texts")
        made.direction, made.nonce = packed(masked), nonce
        if self._optimizer.tell(min(made.losses)):
            self._record.scale = max(self._scale / GROWTH, SMALLEST_SCALE)
            made.notes.append("the loss rose, so the last step was taken back")
        self._end_step(made)

    def _step(self, logits: list[Floats]) -> tuple[Generation, Floats, Ints]:
        """What a step is noted as, and the plausible logits with their labels; the loss of none is infinite."""
        answers = self._answers("training", logits)[0]
        trusted, labels = plausible(answers, self._logit_limit), self._texts["training"].labels
        loss = [math.inf]
        if trusted.any():
            loss = losses(self._config.tuning.loss, answers[None, trusted], labels[trusted]).tolist()
        made = Generation(self._fingerprint(self._candidates), loss)
        if left_out := int((~trusted).sum()):
            made.notes.append(f"implausible logits of {left_out} of {len(labels)} texts were left out")
        return made, answers[trusted], labels[trusted]

    def _end_step(self, made: Generation) -> None:
        self._note(made)
        self._finalists = self._selection.finalists(self._optimizer.mean, self._optimizer.mean)

    def _trusted(self, answers: Floats) -> tuple[Floats, Floats, list[int]]:
        """Logits of candidates and their losses, with stand-ins for implausible ones; and the numbers of these.

        A stand-in has the largest loss of the others, so that it cannot win, and the others' mean logits.
        """
        trusted = plausible(answers, self._logit_limit).all(-1)
        if not trusted.any():
            raise self._implausible("the logits of all candidates")
        answers = np.where(trusted[:, None, None], answers, answers[trusted].mean(0))
        told = self._losses("training", answers)
        told[~trusted] = told[trusted].max()
        return answers, told, np.flatnonzero(~trusted).tolist()

    def _implausible(self, what: str) -> RuntimeFailure:
        key = "alpha" if isinstance(self._optimizer, Optimizer) else "rate"
        return RuntimeFailure(
            f"{what} of generation {len(self._record.generations) + 1} are implausible (logits are within "
            f"+-{self._logit_limit:g}): go on with `resume`, which evaluates the generation again; if that does not "
            f"help, take a smaller tuning.{key}, or look for overflow in the model"
        )

    def _reason_to_stop(self, optimizer: Optimizer, told: Floats) -> str:
        """Why further generations would find nothing; empty where they may."""
        alpha = self._config.tuning.alpha
        if self._alike(self.prompts("candidates", 0, len(told))):
            found = "all candidates' prompts are alike to the secure arithmetic"
        elif np.ptp(told) <= FLAT:
            found = f"all candidates' losses are alike, to {FLAT:g}"
        elif names := optimizer.stopped_by:
            found = f"CMA-ES has converged ({', '.join(names)})"
        else:
            return ""
        return (
            f"stopped after generation {len(self._record.generations)}: {found}, so further ones would find nothing; "
            f"to search more widely, raise tuning.alpha, which is {alpha:g}, and start in another folder"
        )

    @staticmethod
    def _alike(prompts: Floats) -> bool:
        """Whether prompts, as they are shared, differ by less than a unit of the ring integers."""
        return bool(np.ptp(prompts, axis=0).max() < 2.0**-FRACTION_BITS)

    def select(self, logits: list[Floats]) -> None:
        """Take the finalists' logits on the validation texts, batch by batch."""
        self._selection.take(self._finalists, self._validation_losses(logits))
        record, patience = self._record, self._config.tuning.patience
        if patience is not None and record.waited >= patience and not record.stopped:
            record.stopped = (
                f"stopped after generation {len(record.generations)}: nothing better was found in {record.waited} "
                f"evaluation{'s' if patience > 1 else ''} on the validation texts, which is tuning.patience; to go on, "
                "raise it, and start in another folder from this run's prompt (tuning.initial_prompt)"
            )

    def confirm(self, logits: list[Floats]) -> None:
        """Take the leaders' logits on the validation texts, batch by batch, at the end of the run."""
        self._selection.take_last(self._validation_losses(logits))

    def _validation_losses(self, logits: list[Floats]) -> Floats:
        """Losses of prompts on the validation texts, by logits batch by batch; infinite where those are implausible."""
        answers = self._answers("validation", logits)
        trusted = plausible(answers, self._logit_limit).all(-1)
        return np.where(trusted, self._losses("validation", np.where(trusted[:, None, None], answers, 0)), np.inf)

    def _losses(self, split: Split, logits: Floats) -> Floats:
        return losses(self._config.tuning.loss, logits, self._texts[split].labels)

    def _answers(self, split: Split, batches: list[Floats]) -> Floats:
        """Logits [prompts, texts, labels] from those of batches of texts, [prompts * texts, labels] each."""
        prompts = sum(len(batch) for batch in batches) // len(self._texts[split].labels)
        return np.concatenate([batch.reshape(prompts, -1, batch.shape[-1]) for batch in batches], axis=1)

    def standing(self) -> tuple[float, float]:
        """The last generation's least loss and the best validation loss, perhaps pending, for measurements."""
        record = self._record
        return min(record.generations[-1].losses), min(record.best_validation_loss, record.pending_loss)

    def test_accuracy(self, logits: list[Floats]) -> float:
        """Accuracy of logits on the test texts, given part by part; implausible logits count as wrong."""
        answers = np.concatenate(logits)
        trusted = plausible(answers, self._logit_limit)
        return accuracy(np.where(trusted[:, None], answers, np.nan), self._texts["test"].labels)

    def public_state(self) -> RunState:
        """How far the run is and what it took: everybody may know."""
        record, usage = self._record, self._record.usage
        return {
            "generations": len(record.generations),
            "tested": record.accuracy_before is not None,
            "seconds": usage.seconds,
            "forward_calls": usage.forward_calls,
            "ledger": usage.ledger,
        }

    def take_untuned(self, logits: list[Floats]) -> str:
        """Take the untuned prompt's logits on the test texts, part by part; returns a line for the data owner."""
        found = self._record.accuracy_before = self.test_accuracy(logits)
        return f"untuned prompt: accuracy {found:.3f} on {len(self._texts['test'].labels)} unseen texts"

    def save(self, usage: Usage) -> str | None:
        """Write the checkpoint; returns, after a generation, a line for the data owner on what it brought and took."""
        record = self._record
        before, record.usage = record.usage, usage
        record.save(self._folder)
        return describe_generation(record, before) if record.generations else None

    def take_tuned(self, shift: Floats) -> None:
        """Take the shift of the selected prompt [1, prompt_tokens, width], which was in shares until now."""
        self._tuned_shift = from_storage(shift[0], SHIFT_BITS, secure=False)

    def finish(self, logits: list[Floats], usage: Usage, ledger: LedgerReport, batching: BatchingReport) -> None:
        """Take the selected prompt's logits on the test texts, and write all outputs."""
        record = self._record
        record.accuracy_after, record.usage = self.test_accuracy(logits), usage
        save_prompt(self._folder / FILE_NAME, self._tuned())
        write_report(self._folder, self._config, record, {"batching": batching, "ledger": ledger})
        record.save(self._folder)

    def _tuned(self) -> SoftPrompt:
        """The selected prompt; in terms of words where this owner has no table of theirs."""
        if self._tuned_shift is None:
            prompt = self._space.at(np.array(self._record.selected[0]))
        else:
            prompt = SoftPrompt(self._initial.start, self._tuned_shift)
        return prompt if self._tables is None else SoftPrompt.of_vectors(prompt.vectors(self._tables.words))
