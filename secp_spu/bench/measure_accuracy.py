"""Accuracy on few-shot tasks of forward-only tuning, by softmax, by features and under MPC, and of its rivals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np

from secp_spu.bench.plaintext_training import RATES, STEPS, FewShot, descend, probe, train
from secp_spu.bench.records import Case, Record
from secp_spu.bench.schema import AccuracyMethod, FewShotTask
from secp_spu.bench.session import test_accuracy, tuning_session
from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError
from secp_spu.progress import Progress
from secp_spu.tuning import save_peft
from secp_spu.tuning.driver import confirm_best, run_generation

FEW_SHOT: dict[str, Path] = {
    name: Path(__file__).parent / "few_shot" / f"{name}.yaml" for name in get_args(FewShotTask)
}
"""Configurations; all want the setting SECP_SPU_DATA and the package of MiniLM."""

SOURCE = "kitchen_reviews"
"""The task that "fot-transfer" takes its initial prompt from."""

PLAINTEXT_OF: dict[AccuracyMethod, AccuracyMethod] = {
    "fot-secure": "fot-adapted",
    "momentum-secure": "momentum-adapted",
    "adam-secure": "adam-adapted",
}
"""Methods under ABY3, and the same in plaintext."""

ADAPTED = frozenset(PLAINTEXT_OF) | frozenset(PLAINTEXT_OF.values())
"""Methods that take an adapted model; all others the one it was adapted from."""

BY_GRADIENT: dict[AccuracyMethod, str] = {
    "momentum-adapted": "momentum",
    "momentum-secure": "momentum",
    "adam-adapted": "adam",
    "adam-secure": "adam",
}
"""Methods whose generations are steps along gradients, and their optimizers."""

WITHOUT_GENERATIONS: tuple[AccuracyMethod, ...] = ("probe", "fine-tuning", "gradient-prompt")


@dataclass(frozen=True)
class FewShotRun:
    """One run of one method.

    Attributes:
        task: a name in FEW_SHOT.
        method: "probe", "fine-tuning", "gradient-prompt" (see rivals.py); "fot": forward-only tuning with softmax
            attention in plaintext; "fot-transfer": the same from the gradient prompt of SOURCE, as if its texts were
            the model owner's; "fot-adapted": with the adapted model, in plaintext; "fot-secure": the same under ABY3;
            "momentum-adapted", "momentum-secure", "adam-adapted", "adam-secure": likewise, by gradients whose loss is
            at the data owner, and which with momentum it does not see.
        seed: of the few-shot draw, the prompt space and the optimizer.
        generations: of tuning, or steps.
        adapted: folder of the adapted model, for the methods that take one.
        test_texts: how many of the task's test texts, from the first; all by default, which takes long under MPC.
    """

    task: str
    method: AccuracyMethod
    seed: int
    generations: int
    adapted: Path | None = None
    test_texts: int | None = None

    def config(self, *more: str) -> Config:
        """The task's configuration with this model and protocol, and more settings."""
        settings = [f"tuning.seed={self.seed}", f"tuning.generations={self.generations}", *more]
        if self.test_texts is not None:
            settings.append(f"task.test_examples={self.test_texts}")
        if self.adapted is not None:
            settings.append(f"model.folder={json.dumps(str(self.adapted.absolute()))}")
        if self.method in PLAINTEXT_OF:
            settings.append("protocol=aby3")
        if self.method in BY_GRADIENT:
            settings += [f"tuning.optimizer={BY_GRADIENT[self.method]}", "model.reveal=gradients", "tuning.alpha=1"]
            settings += ["tuning.population=null", "tuning.intrinsic_dim=null"]
        return load_config(FEW_SHOT[self.task], settings)

    @property
    def key(self) -> Record:
        """Its record's key."""
        generations = 0 if self.method in WITHOUT_GENERATIONS else self.generations
        key: Record = {"bench": "accuracy", "variant": self.method, "task": self.task, "seed": self.seed}
        key |= {"generations": generations, "model": describe_model(self.adapted)}
        return key if self.test_texts is None else {**key, "test_texts": self.test_texts}

    @property
    def steps(self) -> int:
        """Label for progress."""
        if self.method in WITHOUT_GENERATIONS:
            return 0 if self.method == "probe" else len(RATES[self.method]) * STEPS[self.method]
        return self.generations

    def measure(self, progress: Progress) -> Record:
        """Accuracy on the test texts, which nothing is chosen by, and the validation loss of what was selected.

        Returns: of tuning also `untuned`, the accuracy of the initial prompt, and `evaluations` of a prompt on the
            training texts; of methods under ABY3 the costs by phase.
        """
        if self.method in WITHOUT_GENERATIONS:
            few_shot = FewShot(self.config())
            found = probe(few_shot) if self.method == "probe" else train(few_shot, self.method, progress.step)
            return {"validation_loss": round(found.validation_loss, 5), "accuracy": round(found.accuracy, 4)}
        if self.method != "fot-transfer":
            return _tune(self.config(), progress)
        source = FewShot(FewShotRun(SOURCE, "gradient-prompt", self.seed, self.generations).config())
        _, tuned = descend(source, "gradient-prompt")
        with TemporaryDirectory() as folder:
            save_peft(Path(folder), np.asarray(tuned["prompt"]), source.encoder)
            return _tune(self.config(f"tuning.initial_prompt={{peft: {json.dumps(folder)}}}"), progress)


def _tune(config: Config, progress: Progress) -> Record:
    """Tuning from its initial prompt to its end."""
    with tuning_session(config) as session:
        untuned = test_accuracy(session, "untuned")
        for _ in range(config.tuning.generations):
            run_generation(session)
            progress.step()
        confirm_best(session)
        tuned = test_accuracy(session, "best")
        _, validation = session.runtime.disclose(session.data_owner.standing())
        costs = session.runtime.ledger.report() if session.runtime.secure else {}
    evaluations = config.tuning.generations * config.tuning.candidates
    found = {"untuned": round(untuned, 4), "accuracy": round(tuned, 4), "validation_loss": round(validation, 5)}
    return {**found, "evaluations": evaluations, **costs}


def describe_model(adapted: Path | None) -> str:
    """The pre-trained model, or how an adapted one was made and what came of it.

    Raises: ConfigError for a folder that was not adapted.
    """
    if adapted is None:
        return "softmax"
    try:
        made = json.loads((adapted / "config.json").read_text(encoding="utf-8"))["secp_spu"]
        facts = made["adapted"]
        return (
            f"{made['attention']}, {made['features']} features, {made.get('activation', 'gelu')}, "
            f"{facts['steps']} steps, similarity {facts['similarity']:.4f}"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"--adapted {adapted} is no folder that secp-spu adapt wrote: {error}") from error


def accuracy_cases(runs: Sequence[FewShotRun], progress: Progress) -> Iterator[Case]:
    """All runs, in order."""
    for run in runs:
        yield Case(run.key, partial(run.measure, progress), run.steps)
