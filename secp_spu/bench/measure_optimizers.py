"""Optimizers in plaintext, on the tiny task and on real ones: what they reach, by evaluations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secp_spu.bench.records import Case, Record
from secp_spu.bench.session import test_accuracy, tuning_session
from secp_spu.config import Config, OptimizerKind, load_config
from secp_spu.errors import ConfigError
from secp_spu.progress import Progress
from secp_spu.tuning.driver import confirm_best, run_generation

PACKAGE = Path(__file__).parent.parent

TASKS: dict[str, Path] = {
    "tiny": PACKAGE / "demo" / "config.yaml",
    "sst2": PACKAGE / "bench" / "tasks" / "sst2.yaml",
    "agnews": PACKAGE / "bench" / "tasks" / "agnews.yaml",
}
"""Configurations; all but the tiny one want the setting SECP_SPU_DATA and the package of MiniLM."""

DATA_SETTING = "SECP_SPU_DATA"

TESTS = 4
"""How many times a run is tested on the way, at equal distances; the untuned prompt is tested besides."""


@dataclass(frozen=True)
class Comparison:
    """One run of one optimizer.

    Attributes:
        task: a name in TASKS.
        optimizer: its name in configurations.
        seed: of the few-shot draw, the prompt space and the optimizer.
        evaluations: of a prompt on the training texts, at most.
    """

    task: str
    optimizer: OptimizerKind
    seed: int
    evaluations: int

    def config(self) -> Config:
        """The task's configuration with this optimizer, in plaintext.

        Raises: ConfigError for fewer evaluations than a generation has.
        """
        settings = ["protocol=plaintext", f"tuning.optimizer={self.optimizer}", f"tuning.seed={self.seed}"]
        if self.task == "tiny":
            settings.append("tuning.population=8")
        config = load_config(TASKS[self.task], settings)
        population = config.tuning.candidates
        if self.evaluations < population:
            raise ConfigError(
                f"--evaluations {self.evaluations}: a generation of {self.optimizer} on {self.task} has {population}: "
                f"take {population} or more"
            )
        generations = self.evaluations // population
        return config.model_copy(update={"tuning": config.tuning.model_copy(update={"generations": generations})})

    @property
    def key(self) -> Record:
        """Its record's key."""
        return {
            "bench": "optimizers",
            "variant": self.optimizer,
            "task": self.task,
            "seed": self.seed,
            "max_evaluations": self.evaluations,
        }

    def measure(self, progress: Progress) -> Record:
        """Losses after every generation, and test accuracy on the way.

        Returns: for each generation `evaluations` (of training texts alone; each generation evaluates two finalists on
            the validation texts besides), `training_loss` (least so far), `validation_loss` (of the selected prompt);
            `test_accuracy` as pairs of evaluations and accuracy, from the untuned prompt on.
        """
        config = self.config()
        population, generations = config.tuning.candidates, config.tuning.generations
        losses: list[float] = []
        validation: list[float] = []
        with tuning_session(config) as session:
            accuracies = [(0, test_accuracy(session, "untuned"))]
            for number in range(1, generations + 1):
                run_generation(session)
                told, selected = session.runtime.disclose(session.data_owner.standing())
                losses.append(min([told, *losses[-1:]]))
                validation.append(selected)
                if number == generations or number % max(1, generations // TESTS) == 0:
                    confirm_best(session)
                    accuracies.append((number * population, test_accuracy(session, "best")))
                progress.step()
        return {
            "intrinsic_dim": config.tuning.intrinsic_dim,
            "population": population,
            "evaluations": [population * number for number in range(1, generations + 1)],
            "training_loss": [round(loss, 5) for loss in losses],
            "validation_loss": [round(loss, 5) for loss in validation],
            "test_accuracy": [[evaluations, round(found, 4)] for evaluations, found in accuracies],
        }


def optimizer_cases(comparisons: Sequence[Comparison], progress: Progress) -> Iterator[Case]:
    """A run of every optimizer, task and seed."""
    for one in comparisons:
        generations = one.config().tuning.generations
        yield Case(one.key, partial(one.measure, progress), generations)


def has_data() -> bool:
    """Whether real tasks can be run."""
    return bool(os.environ.get(DATA_SETTING))
