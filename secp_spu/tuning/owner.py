"""The data owner: texts, labels, prompts, losses and the optimizer, all of which stay with it in plaintext."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secp_spu.config import Config, ConfigError, TaskSection, save_config
from secp_spu.tuning.finished_run import CONFIG_NAME
from secp_spu.tuning.initial_prompt import make_initial_prompt, prompt_generator
from secp_spu.tuning.inputs import InputOwner, PromptSet, Split
from secp_spu.tuning.loss import accuracy, losses
from secp_spu.tuning.optimizer import fingerprint, make_optimizer
from secp_spu.tuning.prompt import FILE_NAME, PromptSpace, SoftPrompt, save_prompt
from secp_spu.tuning.record import Generation, Usage, open_run
from secp_spu.tuning.report import REPORT, describe_generation, write_report
from secp_spu.tuning.task import Example, TaskTokenizer, TokenBatch, draw_few_shot, read_examples


@dataclass(frozen=True)
class Texts:
    """A set of the data owner's texts, as the model wants them, and their labels."""

    tokens: TokenBatch
    labels: np.ndarray


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
        super().__init__(config)
        self._texts = read_splits(config.task, self._tokenizer, self._record.seed)
        self._tokens = {split: texts.tokens for split, texts in self._texts.items()}
        tuning, rng = config.tuning, prompt_generator(self._record.seed)
        self._initial = make_initial_prompt(config, self._encoder, self._tokenizer, rng=rng)
        self._refuse_another_initial_prompt()
        self._space = PromptSpace.random(
            self._initial, tuning.intrinsic_dim, rng=rng, alpha=tuning.alpha, sigma=tuning.sigma
        )
        self._optimizer = make_optimizer(
            tuning.optimizer,
            tuning.intrinsic_dim,
            tuning.population,
            tuning.sigma,
            [self._record.seed, 2],
            labels=self._texts["training"].labels,
        )
        self._replay()
        self._candidates = np.zeros((0, tuning.intrinsic_dim))
        self._finalists = self._candidates

    def _replay(self) -> None:
        """Bring a fresh optimizer to where the recorded run stopped."""
        for number, done in enumerate(self._record.generations, 1):
            if fingerprint(self._optimizer.ask()) != done.candidates:
                raise ConfigError(
                    f"{self._folder}: the candidates of generation {number} come out different on this machine: "
                    "resume where the run was started"
                )
            self._optimizer.tell(np.array(done.losses), np.array(done.logits))

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
        made, wanted = len(self._record.generations), self._config.tuning.generations
        there = all((self._folder / name).exists() for name in (FILE_NAME, REPORT))
        return self._record.accuracy_after is not None and made == wanted and there

    def begin(self) -> None:
        """Claim the folder for this run, and leave its configuration there."""
        self._record.save(self._folder)
        save_config(self._config, self._folder / CONFIG_NAME)

    def prompts(self, which: PromptSet, first: int, last: int) -> np.ndarray:
        """Prompts first..last - 1 of a set, ready for the first layer [prompts, prompt_tokens, width].

        Without embedding tables what is to be added to p0's words, in standard deviations of the word embeddings.
        """
        points = {
            "untuned": np.zeros((1, self._config.tuning.intrinsic_dim)),
            "candidates": self._candidates,
            "finalists": self._finalists,
            "best": np.array([self._record.best]),
        }[which][first:last]
        return self._for_sharing(self._space.shifts(points))

    def ask(self) -> None:
        """Propose the next generation's candidates."""
        self._candidates = self._optimizer.ask()

    def tell(self, logits: list[list[np.ndarray]]) -> None:
        """Take the candidates' logits on the training texts, and propose two finalists.

        Args:
            logits: for each part of the candidates those of each batch of texts.
        """
        answers = np.concatenate([self._answers("training", part) for part in logits])
        told = self._losses("training", answers)
        if not np.isfinite(told).all():
            raise ConfigError("losses are not finite: take a smaller tuning.alpha, or look for overflow in the model")
        self._optimizer.tell(told, answers)
        # Only Gauss-Newton's course depends on more than the losses, so only its record has to keep more.
        kept = answers.tolist() if self._config.tuning.optimizer == "gauss-newton" else []
        self._record.accuracy_after = None  # what it was after fewer generations
        self._record.generations.append(Generation(fingerprint(self._candidates), told.tolist(), float("inf"), kept))
        self._finalists = np.stack([self._candidates[told.argmin()], self._optimizer.mean])

    def select(self, logits: list[np.ndarray]) -> None:
        """Take the finalists' logits on the validation texts, batch by batch, and keep the best so far."""
        found = self._losses("validation", self._answers("validation", logits))
        record = self._record
        record.generations[-1].validation_loss = float(found.min())
        if found.min() < record.best_validation_loss:
            record.best_validation_loss = float(found.min())
            record.best = self._finalists[found.argmin()].tolist()

    def _losses(self, split: Split, logits: np.ndarray) -> np.ndarray:
        return losses(self._config.tuning.loss, logits, self._texts[split].labels)

    def _answers(self, split: Split, batches: list[np.ndarray]) -> np.ndarray:
        """Logits [prompts, texts, labels] from those of batches of texts, [prompts * texts, labels] each."""
        prompts = sum(len(batch) for batch in batches) // len(self._texts[split].labels)
        return np.concatenate([batch.reshape(prompts, -1, batch.shape[-1]) for batch in batches], axis=1)

    def standing(self) -> tuple[float, float]:
        """The last generation's least loss and the selected prompt's validation loss, for measurements."""
        record = self._record
        return min(record.generations[-1].losses), record.best_validation_loss

    def test_accuracy(self, logits: list[np.ndarray]) -> float:
        """Accuracy of logits on the test texts, given part by part."""
        return accuracy(np.concatenate(logits), self._texts["test"].labels)

    def public_state(self) -> dict[str, Any]:
        """How far the run is and what it took: everybody may know."""
        record = self._record
        tested = record.accuracy_before is not None
        return {"generations": len(record.generations), "tested": tested, **asdict(record.usage)}

    def take_untuned(self, logits: list[np.ndarray]) -> str:
        """Take the untuned prompt's logits on the test texts, part by part; returns a line for the data owner."""
        found = self._record.accuracy_before = self.test_accuracy(logits)
        return f"untuned prompt: accuracy {found:.3f} on {len(self._texts['test'].labels)} unseen texts"

    def save(self, usage: Usage) -> str | None:
        """Write the checkpoint; returns, after a generation, a line for the data owner on what it brought and took."""
        record = self._record
        before, record.usage = record.usage, usage
        record.save(self._folder)
        return describe_generation(record, before) if record.generations else None

    def finish(self, logits: list[np.ndarray], usage: Usage, ledger: dict[str, Any], batching: dict[str, Any]) -> None:
        """Take the selected prompt's logits on the test texts, and write all outputs."""
        record = self._record
        record.accuracy_after, record.usage = self.test_accuracy(logits), usage
        save_prompt(self._folder / FILE_NAME, self._tuned())
        write_report(self._folder, self._config, record, {"batching": batching, "ledger": ledger})
        record.save(self._folder)

    def _tuned(self) -> SoftPrompt:
        """The selected prompt; in terms of words where this owner has no table of theirs."""
        prompt = self._space.at(np.array(self._record.best))
        return prompt if self._tables is None else SoftPrompt.of_vectors(prompt.vectors(self._tables.words))
