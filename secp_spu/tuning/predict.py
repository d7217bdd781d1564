"""Private inference: labels new texts with a tuned prompt; labels and scores reach the data owner alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from secp_spu.config import Config
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.files import make_private_folder, write_whole
from secp_spu.inference import parts
from secp_spu.progress import Progress
from secp_spu.runtime import Actor, Owned, Runtime, Stored
from secp_spu.trees import Floats
from secp_spu.tuning.batching import even
from secp_spu.tuning.finished_run import load_tuned_prompt
from secp_spu.tuning.inputs import InputOwner, PromptSet
from secp_spu.tuning.limits import Allowance, Amounts
from secp_spu.tuning.logits import plausible
from secp_spu.tuning.shared_model import SharedModel, share_model, sizes_of
from secp_spu.tuning.task import Text, read_texts, template_fields

RESULTS = {"label", "scores"}
"""What a result has besides its text's fields."""

SCORE_DECIMALS = 6
"""More than MPC's error leaves of a score."""


@dataclass(frozen=True)
class Prediction:
    """What a prompt makes of a text.

    Attributes:
        label: with the largest score.
        scores: of all labels, by label; they add up to one.
    """

    label: str
    scores: dict[str, float]


class Predictor(InputOwner):
    """A data owner that has new texts and a tuned prompt; it alone sees what comes out.

    Args:
        config: of the run that tuned the prompt.
        run: its folder.
        texts: a file of JSON lines with the template's fields, or the texts.
        out: file for the results, one JSON line a text: all its fields, `label` and `scores`, which add up to one. None
            for no file.
    Raises: ConfigError for texts, a template or a prompt that do not fit; CheckpointError.
    """

    def __init__(self, config: Config, run: Path, texts: Path | Sequence[Text], out: Path | None):
        super().__init__(config)
        if RESULTS & set(template_fields(config.task.template)):
            raise ConfigError(
                f"task.template is {config.task.template!r}, but the results have a field `scores` of their own: give "
                "the texts' field another name, there and in task.template"
            )
        self._initial = load_tuned_prompt(run, config, self._transformer)
        self._texts = read_texts(texts, config.task) if isinstance(texts, Path) else list(texts)
        self._tokens = {"new": self._tokenizer.encode(self._texts, config.task)}
        self._out = out
        self._logits: list[Floats] = []

    def begin(self) -> None:
        """Make sure that the results can be written.

        Raises: ConfigError.
        """
        if self._out is None:
            return
        refuse_existing(self._out)
        try:
            make_private_folder(self._out.parent)
            TemporaryFile(dir=self._out.parent).close()  # it has no name, so that nothing can be left of it
        except OSError as error:
            raise ConfigError(f"{self._out} cannot be written: {error.strerror}") from error

    def prompts(self, which: PromptSet, first: int, last: int) -> Floats:
        """The tuned prompt; see `DataOwner.prompts`."""
        if (which, first, last) != ("best", 0, 1):
            raise ValueError(f"which is {which}, {first} to {last}, but there is one prompt, the best")
        return self._for_sharing(self._initial.shift[None])

    def take(self, logits: Floats) -> None:
        """Keep the logits [texts, labels] of the next pass."""
        self._logits.append(logits)

    def passes_to_repeat(self) -> list[int]:
        """Numbers of the passes that gave implausible logits, to be made once more; everybody may know them."""
        return [number for number, logits in enumerate(self._logits) if not self._plausible(logits).all()]

    def take_again(self, number: int, logits: Floats) -> None:
        """Take the logits of a pass that was made once more, where they were implausible."""
        before = self._logits[number]
        self._logits[number] = np.where(self._plausible(before)[:, None], before, logits)

    def _plausible(self, logits: Floats) -> npt.NDArray[np.bool_]:
        return plausible(logits, self._logit_limit)

    def predictions(self) -> list[Prediction]:
        """A prediction for every text.

        Raises: RuntimeFailure for implausible logits.
        """
        logits = np.concatenate(self._logits)
        if wrong := np.flatnonzero(~self._plausible(logits)).tolist():
            raise RuntimeFailure(
                f"the logits of {len(wrong)} of {len(logits)} texts, the first being text {wrong[0] + 1}, are "
                f"implausible in two evaluations (not within +-{self._logit_limit:g}), and nothing was written: leave "
                "these texts out, or look for overflow in the model"
            )
        labels, found = list(self._config.task.labels), []
        for scores in softmax(logits.astype(np.float64), axis=-1):
            rounded = dict(zip(labels, scores.round(SCORE_DECIMALS).tolist(), strict=True))
            found.append(Prediction(labels[scores.argmax()], rounded))
        return found

    def finish(self) -> str:
        """Write the results, all or nothing; returns a line for the data owner.

        Raises: ConfigError; RuntimeFailure for implausible logits.
        """
        if self._out is not None:
            refuse_existing(self._out)
        found = self.predictions()
        if self._out is not None:
            self._write(self._out, found)
        counts = Counter(prediction.label for prediction in found)
        return f"{len(found)} texts: {', '.join(f'{counts[label]} {label}' for label in self._config.task.labels)}"

    def _write(self, out: Path, found: list[Prediction]) -> None:
        lines = []
        for text, prediction in zip(self._texts, found, strict=True):
            result = {**text.others, **text.fields, "label": prediction.label, "scores": prediction.scores}
            lines.append(json.dumps(result, ensure_ascii=False) + "\n")
        try:
            write_whole(out, "".join(lines).encode(errors="replace"), secret=True)
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}") from error


def refuse_existing(out: Path) -> None:
    """Raises: ConfigError for a file that is there: results are never written over."""
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another file")


def predict(
    runtime: Runtime,
    config: Config,
    predictor: Actor,
    model_owner: Actor,
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
        predictor.take(_answer(shared, prompt, some))
    if repeated := sorted(set(range(len(passes))) & set(runtime.disclose(predictor.passes_to_repeat()))):
        progress.stage("passes once more, whose logits were implausible", shared.model.layers * len(repeated))
        for number in repeated:
            allowance.take(Amounts(texts=len(passes[number])))
            predictor.take_again(number, _answer(shared, prompt, passes[number]))
    runtime.free(prompt)
    found = predictor.finish()
    runtime.settle()
    if line := runtime.at_home(found):
        progress.line(line)


def _answer(shared: SharedModel, prompt: Stored, texts: range) -> Owned:
    """Logits of some of the texts, whose embeddings are shared for this pass alone."""
    batch = shared.texts("new", texts.start, texts.stop)
    logits = shared.answer(prompt, batch)
    shared.runtime.free(batch.handles)
    return logits
