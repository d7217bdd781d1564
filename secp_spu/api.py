"""The Python API: tunes, predicts, adapts, audits and exports, with all parties on this machine.

Its names are those of the package: `from secp_spu import tune`. The parties of a cluster on several machines are
processes of the command line, `secp-spu party`. An argument of another type than is said here is a TypeError that names
the argument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from secp_spu.adaptation.training import Adaptation, Recipe
from secp_spu.adaptation.training import adapt as run_adaptation
from secp_spu.arguments import path_of, settings_of
from secp_spu.config import Config
from secp_spu.config import load_config as read_config
from secp_spu.errors import ConfigError
from secp_spu.model import load_embeddings, load_transformer_config
from secp_spu.progress import Progress, progress_of
from secp_spu.runtime import Program
from secp_spu.runtime.ledger import LedgerReport
from secp_spu.tuning import Prediction, export_peft, make_runtime, open_run
from secp_spu.tuning import load_run as load_config_of_run
from secp_spu.tuning.finished_run import load_tuned_prompt
from secp_spu.tuning.programs import audit_config
from secp_spu.tuning.run_report import REPORT, RunReport
from secp_spu.tuning.task import texts_of
from secp_spu.tuning.whole_run import run_prediction, run_tuning

DEMO_CONFIG = Path(__file__).parent / "demo" / "config.yaml"
"""The configuration of the demo, whose tiny model and data are part of the package."""

NewTexts = Iterable[str | Mapping[str, object]]
"""Texts to be labelled: objects with the fields of the template, or strings where it has one field."""

_REPORTED = {"loss", "validation_loss", "accuracy_before", "accuracy_after", "ledger"}
"""Keys of report.json that a TunedRun shows."""


@dataclass(frozen=True)
class TunedRun:
    """A run that has finished: its prompt, what it brought and what it cost.

    Attributes:
        folder: with its outputs.
        config: its configuration.
        report: the content of report.json.
    """

    folder: Path
    config: Config
    report: RunReport

    @cached_property
    def prompt(self) -> npt.NDArray[np.float32]:
        """The tuned prompt, in the space of word embeddings, float32 [prompt_tokens, width].

        Raises: CheckpointError where the prompt is in terms of words, and the model's folder has no table of them.
        """
        folder = self.config.model.folder
        prompt = load_tuned_prompt(self.folder, self.config, load_transformer_config(folder))
        words = load_embeddings(folder)[1]["word"]["embedding"] if prompt.of_words else None
        return prompt.start.astype(np.float32) if words is None else prompt.vectors(words)

    @property
    def history(self) -> list[float]:
        """The lowest loss of each generation's candidates on the training texts; of a step that before it.

        Infinite where no logits were plausible.
        """
        return [math.inf if loss is None else loss for loss in self.report["loss"]]

    @property
    def validation_history(self) -> list[float | None]:
        """The loss of each generation's finalist on the validation texts.

        None where there was no finalist (`tuning.validate_every`), or no logits were plausible.
        """
        return list(self.report["validation_loss"])

    @property
    def accuracy_before(self) -> float:
        """Accuracy of the untuned prompt on the test texts."""
        return self.report["accuracy_before"]

    @property
    def accuracy_after(self) -> float:
        """Accuracy of the tuned prompt on the test texts."""
        return self.report["accuracy_after"]

    @property
    def costs(self) -> LedgerReport:
        """What the run cost: bytes, sends and seconds by phase, operation and program (`Ledger.report`)."""
        return self.report["ledger"]

    def predict(self, texts: NewTexts, *, progress: Progress | None = None) -> list[Prediction]:
        """Label new texts: see `predict`."""
        return predict(self, texts, progress=progress)

    def export(self, out: Path | str) -> Path:
        """Write the prompt as an adapter of Hugging Face PEFT: see `export`."""
        return export(self, out)


def load_config(path: Path | str, settings: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: of a YAML file.
        settings: `KEY=VALUE` with dotted keys, such as `tuning.population=8`; they win over the file.
    Raises: ConfigError naming the file and key.
    """
    return read_config(path_of(path, "path"), settings_of(settings))


def tune(
    config: Config | Path | str,
    *,
    out: Path | str,
    settings: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> TunedRun:
    """Tune a soft prompt as a configuration says, with all parties on this machine.

        >>> from tempfile import TemporaryDirectory
        >>> from secp_spu import DEMO_CONFIG, tune
        >>> settings = ["protocol=plaintext", "tuning.generations=2", "task.test_examples=8"]
        >>> with TemporaryDirectory() as folder:
        ...     run = tune(DEMO_CONFIG, out=f"{folder}/run", settings=settings)
        ...     prompt = run.prompt
        >>> len(run.history), prompt.shape
        (2, (4, 64))

    Args:
        config: the configuration, or its YAML file.
        out: folder for the outputs; it belongs to one run.
        settings: `KEY=VALUE`, which win over the file.
        resume: go on with the run in `out`; a run that has finished is only read.
        progress: told of every step, and closed at the end; silent by default.
    Raises: ConfigError and CheckpointError for what cannot be tuned, before anything runs; RuntimeFailure if a party
        fails.
    """
    loaded, folder, shown = _config(config, settings), path_of(out, "out"), progress_of(progress)
    open_run(folder, loaded, resume=resume)  # what is wrong with it is said before anything starts
    with make_runtime(loaded) as runtime:
        run_tuning(runtime, loaded, folder, resume=resume, progress=shown)
    return load_run(folder)


def load_run(folder: Path | str, settings: Sequence[str] = ()) -> TunedRun:
    """A run that has finished.

    Args:
        folder: of the run.
        settings: `KEY=VALUE`, which win over its configuration, for what is to be done with its prompt.
    Raises: ConfigError for a folder without a tuned prompt or report, and for settings of another model or task than
        the prompt was tuned for.
    """
    where = path_of(folder, "folder")
    config = load_config_of_run(where, settings_of(settings))
    try:
        report = json.loads((where / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not report.keys() >= _REPORTED:
            raise ValueError("it is no report of a run")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where / REPORT} cannot be read ({error}): copy it anew from where it was tuned") from error
    return TunedRun(where, config, cast(RunReport, report))


def predict(run: TunedRun | Path | str, texts: NewTexts, *, progress: Progress | None = None) -> list[Prediction]:
    """Label new texts with a tuned prompt, on a runtime as the run's configuration says.

        >>> from tempfile import TemporaryDirectory
        >>> from secp_spu import DEMO_CONFIG, predict, tune
        >>> settings = ["protocol=plaintext", "tuning.generations=1", "task.test_examples=8"]
        >>> with TemporaryDirectory() as folder:
        ...     run = tune(DEMO_CONFIG, out=f"{folder}/run", settings=settings)
        ...     first, second = predict(run, ["the salad was good", "we waited for an hour"])
        >>> first.label in first.scores, round(sum(first.scores.values()), 3)
        (True, 1.0)

    Args:
        run: a run, or its folder.
        texts: an iterable of objects with the fields of the run's template; or of strings, where it has one field.
        progress: told of every step, and closed at the end; silent by default.
    Returns: a prediction for every text, in order.
    Raises: ConfigError for texts that are blank or no texts, and for another model, template or labels than the prompt
        was tuned for; CheckpointError; RuntimeFailure.
    """
    tuned = run if isinstance(run, TunedRun) else load_run(_folder_of(run))
    rows, folder, shown = texts_of(texts, tuned.config.task), tuned.folder.absolute(), progress_of(progress)
    with make_runtime(tuned.config) as runtime:
        predictor = run_prediction(runtime, tuned.config, folder, rows, None, progress=shown)
        predictions: list[Prediction] = runtime.at_home(predictor.predictions())
        return predictions


def adapt(recipe: Recipe, *, out: Path | str, resume: bool = False, progress: Progress | None = None) -> Adaptation:
    """Give a pre-trained model attention by features, by distillation in plaintext: the model owner's own step.

        >>> from dataclasses import replace
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from secp_spu import DEMO_CONFIG, Recipe, adapt
        >>> from secp_spu.model import load_checkpoint, save_checkpoint
        >>> demo = load_checkpoint(DEMO_CONFIG.parent / "model")
        >>> params = demo.variables["params"]
        >>> for part in params.values():  # the demo's model was adapted already
        ...     _ = part.pop("attention", None), part.pop("activation", None)
        >>> with TemporaryDirectory() as name:
        ...     model, corpus = Path(name, "model"), Path(name, "lines.txt")
        ...     config = replace(demo.config, attention="softmax", activation="relu")
        ...     extras = {"model_type": "bert", "tokenizer_json": demo.folder / "tokenizer.json"}
        ...     save_checkpoint(model, config, {"params": params}, demo.head, **extras)
        ...     _ = corpus.write_text("\\n".join(f"we waited {minutes} minutes" for minutes in range(300)))
        ...     recipe = Recipe(model, corpus, features=8, steps=1, batch_tokens=64, max_tokens=12, prompt_tokens=4)
        ...     done = adapt(recipe, out=f"{name}/adapted")
        ...     attention = load_checkpoint(Path(name, "adapted")).config.attention
        >>> done.step, attention
        (1, 'fourier')

    Args:
        recipe: which model, on which corpus, and how.
        out: folder for the adapted checkpoint.
        resume: go on with what is in `out`.
        progress: told of every step, and closed at the end; silent by default.
    Raises: ConfigError and CheckpointError for what cannot be adapted.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"`recipe` is a {type(recipe).__name__}, but must be a secp_spu.Recipe")
    folder, shown = path_of(out, "out"), progress_of(progress)
    try:
        return run_adaptation(recipe, folder, resume=resume, progress=shown)
    finally:
        shown.close()


def audit(config: Config | Path | str, *, settings: Sequence[str] = ()) -> list[Program]:
    """Compile every program of a configuration and prove its openings masked; nothing is run.

        >>> from secp_spu import DEMO_CONFIG, audit
        >>> programs = audit(DEMO_CONFIG, settings=["protocol=semi2k", "parties=2", "trusted_first_party=true"])
        >>> {program.name: len(program.audit.openings) for program in programs}["layer"]
        2

    Args:
        config: the configuration, or its YAML file.
        settings: `KEY=VALUE`, which win over the file.
    Returns: the programs, each with its text `code` and its proof `audit`.
    Raises: AuditError naming each opening that is not proven; ConfigError.
    """
    return audit_config(_config(config, settings)).programs


def export(run: TunedRun | Path | str, out: Path | str) -> Path:
    """Write a run's tuned prompt as an adapter of Hugging Face PEFT, of the type PROMPT_TUNING.

    Args:
        run: a run, or its folder.
        out: folder to write.
    Returns: the folder, for `peft.PeftModel.from_pretrained`.
    Raises: ConfigError; CheckpointError for a model folder without the table of word embeddings.
    """
    folder = path_of(out, "out")
    export_peft(run.folder if isinstance(run, TunedRun) else _folder_of(run), folder)
    return folder


def _folder_of(run: object) -> Path:
    return path_of(run, "run", "a secp_spu.TunedRun or the path of its folder")


def _config(config: Config | Path | str, settings: Sequence[str]) -> Config:
    if not isinstance(config, Config):
        return read_config(path_of(config, "config", "a secp_spu.Config or a path"), settings_of(settings))
    if settings_of(settings):
        raise ValueError("settings go with a configuration's file: give the file, or set the keys of the configuration")
    return config
