"""Private inference: a tuned prompt and new texts in, labels and scores at the data owner alone out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from scipy.special import softmax

from secp_spu.config import Config, ConfigError
from secp_spu.files import write_whole
from secp_spu.runtime import Runtime, parts
from secp_spu.tuning.batching import even
from secp_spu.tuning.finished_run import load_tuned_prompt
from secp_spu.tuning.inputs import InputOwner, PromptSet
from secp_spu.tuning.limits import Allowance, Amounts
from secp_spu.tuning.progress import Progress
from secp_spu.tuning.shared_model import share_model, sizes_of
from secp_spu.tuning.task import read_texts, template_fields

RESULTS = {"label", "scores"}
"""What a result has besides its text's fields."""

SCORE_DECIMALS = 6
"""More than MPC's error leaves of a score."""


class Predictor(InputOwner):
    """A data owner that has new texts and a tuned prompt; it alone sees what comes out.

    Args:
        config: of the run that tuned the prompt.
        run: its folder.
        texts: JSON lines with the template's fields.
        out: file for the results, one JSON line a text: all its fields, `label` and `scores`, which add up to one.
    Raises: ConfigError for texts, a template or a prompt that do not fit; CheckpointError.
    """

    def __init__(self, config: Config, run: Path, texts: Path, out: Path):
        super().__init__(config)
        if RESULTS & set(template_fields(config.task.template)):
            raise ConfigError(
                f"task.template is {config.task.template!r}, but the results have a field `scores` of their own: give "
                "the texts' field another name, there and in task.template"
            )
        self._initial = load_tuned_prompt(run, config, self._encoder)
        self._texts = read_texts(texts, config.task)
        self._tokens = {"new": self._tokenizer.encode(self._texts, config.task)}
        self._out = out
        self._found: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Make sure that the results can be written.

        Raises: ConfigError.
        """
        refuse_existing(self._out)
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self._out.parent).close()  # it has no name, so that nothing can be left of it
        except OSError as error:
            raise ConfigError(f"{self._out} cannot be written: {error.strerror}") from error

    def prompts(self, which: PromptSet, first: int, last: int) -> np.ndarray:
        """The tuned prompt; see `DataOwner.prompts`."""
        if (which, first, last) != ("best", 0, 1):
            raise ValueError(f"which is {which}, {first} to {last}, but there is one prompt, the best")
        return self._for_sharing(self._initial.shift[None])

    def take(self, logits: np.ndarray) -> None:
        """Keep what the next texts' logits [texts, labels] say."""
        if not np.isfinite(logits).all():
            raise ConfigError("logits are not finite: look for overflow in the model, or leave the longest texts out")
        labels = list(self._config.task.labels)
        for scores in softmax(logits.astype(np.float64), axis=-1):
            text = self._texts[len(self._found)]
            rounded = dict(zip(labels, scores.round(SCORE_DECIMALS).tolist(), strict=True))
            self._found.append({**text.others, **text.fields, "label": labels[scores.argmax()], "scores": rounded})

    def finish(self) -> str:
        """Write the results, all or nothing; returns a line for the data owner.

        Raises: ConfigError.
        """
        refuse_existing(self._out)
        lines = [json.dumps(found, ensure_ascii=False) + "\n" for found in self._found]
        try:
            write_whole(self._out, "".join(lines).encode(errors="replace"), secret=True)
        except OSError as error:
            raise ConfigError(f"{self._out} cannot be written: {error.strerror}") from error
        counts = Counter(found["label"] for found in self._found)
        return f"{len(lines)} texts: {', '.join(f'{counts[label]} {label}' for label in self._config.task.labels)}"


def refuse_existing(out: Path) -> None:
    """Raises: ConfigError for a file that is there: results are never written over."""
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another file")


def predict(
    runtime: Runtime,
    config: Config,
    predictor: Any,
    model_owner: Any,
    progress: Progress,
    allowance: Allowance | None = None,
) -> None:
    """Share the model, the prompt and, pass by pass, the texts; open their logits to the data owner alone.

    Shares and correlations are fresh in every call, so that a text may be predicted again: nothing of one call's
    openings is in another's.

    Args:
        runtime: where it runs.
        config: of the run that tuned the prompt.
        predictor: actor of a Predictor.
        model_owner: actor of a ModelOwner.
        progress: told of every step.
        allowance: asks the model owner for every pass; None where one process is all parties.
    Raises: LimitReached if the model owner's limits do not allow all texts, before anything is shared.
    """
    allowance = allowance or Allowance()
    texts = sizes_of(runtime, predictor)["new"]
    allowance.begin(Amounts(texts=texts, predictions=texts))
    predictor.begin()
    shared = share_model(runtime, config, (predictor, model_owner), progress)
    passes = list(parts(texts, even(texts, shared.most)))
    progress.stage(f"{texts} texts, {len(passes[0])} a pass", shared.model.layers * len(passes))
    prompt = shared.prompts("best", 0, 1)
    for some in passes:
        allowance.take(Amounts(texts=len(some), predictions=len(some)))
        batch = shared.texts("new", some.start, some.stop)
        predictor.take(shared.answer(prompt, batch))
        runtime.free(batch.handles)
    runtime.free(prompt)
    found = predictor.finish()
    runtime.settle()
    if line := runtime.at_home(found):
        progress.line(line)
