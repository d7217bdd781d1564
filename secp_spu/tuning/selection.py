"""Selects the tuned prompt: the point with the smallest validation loss that two evaluations agree on.

A finalist that is better than the best is pending first. The next generation evaluates the pending point again, in
place of the optimizer's mean: every generation has as many evaluations, and nobody sees whether there was a new best.
At the end of the run the last pending point is evaluated again; without one the best is. As long as nothing was found,
p0 stands in place of the optimizer's mean, so that a good initial prompt is never left for a worse one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from secp_spu.errors import RuntimeFailure
from secp_spu.trees import Floats
from secp_spu.tuning.logits import FLAT
from secp_spu.tuning.record import RunRecord, confirms

WHAT_TO_DO = "go on with `resume` and more tuning.generations, or look for overflow in the model"


class Selection:
    """What of a run's record the validation losses decide.

    Args:
        record: `best` and `pending` with their losses are kept in it; notes go to its last generation.
    """

    def __init__(self, record: RunRecord):
        self._record = record

    def finalists(self, candidate: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The generation's best candidate, and the pending point, the optimizer's mean or p0 [2, length]."""
        other = mean if self._record.best else np.zeros_like(mean)
        return np.stack([candidate, np.array(self._record.pending) if self._record.pending else other])

    @property
    def leaders(self) -> npt.NDArray[np.float64]:
        """The best and the pending point [2, length]; where there is but one, it stands twice.

        Raises: RuntimeFailure if there is none.
        """
        best, pending = self._record.best, self._record.pending
        if not best and not pending:
            raise RuntimeFailure(f"no prompt was found: the logits of all finalists were implausible; {WHAT_TO_DO}")
        return np.array([best or pending, pending or best])

    def take(self, finalists: npt.NDArray[np.float64], found: Floats) -> None:
        """Take a generation's validation losses.

        Args:
            finalists: as `finalists` returned them.
            found: their losses [2], infinite where the logits were implausible.
        """
        record, fresh = self._record, found
        if record.pending:
            fresh = found[:1]
            self._take_second_evaluation(float(found[1]))
        last, least = record.generations[-1], float(fresh.min())
        last.validation_loss = least
        last.notes += ["a finalist's logits were implausible"] * int(np.isinf(fresh).sum())
        before = min(record.best_validation_loss, record.pending_loss)
        record.waited = 0 if least < before - FLAT else record.waited + 1
        if least < before:
            record.pending, record.pending_loss = finalists[fresh.argmin()].tolist(), least

    def _take_second_evaluation(self, again: float) -> None:
        """The larger of the pending point's losses counts; if the two differ, a third evaluation is to confirm it."""
        record = self._record
        before, agreed = record.pending_loss, self._agree(again)
        loss = max(again, before) if math.isfinite(again) else before
        if agreed and loss < record.best_validation_loss:
            record.best, record.best_validation_loss = record.pending, loss
        if agreed or loss >= record.best_validation_loss:
            record.pending, record.pending_loss = [], math.inf
        else:
            record.pending_loss = loss

    def take_last(self, found: Floats) -> None:
        """Take the leaders' validation losses [2] at the end of the run.

        Raises: RuntimeFailure if no point has two evaluations that agree.
        """
        record, again = self._record, float(found[1])
        if record.pending and self._agree(again):
            record.pending_again = again
        if not record.selected[0]:
            raise RuntimeFailure(f"no prompt was found: no two evaluations of one agree; {WHAT_TO_DO}")

    def _agree(self, again: float) -> bool:
        """Whether the pending point's second loss confirms the first; says so in the record if it does not."""
        record = self._record
        agreed = confirms(again, record.pending_loss)
        if not agreed:
            second = f"{again:.3f}" if math.isfinite(again) else "implausible"
            record.generations[-1].notes.append(
                f"the best was not taken: its validation loss was {record.pending_loss:.3f}, evaluated again {second}"
            )
        return agreed
