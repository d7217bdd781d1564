"""Whole runs on a runtime, from a configuration and files: what the Python API and the command line have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secp_spu.config import Config
from secp_spu.progress import Progress
from secp_spu.runtime import Actor, Runtime
from secp_spu.tuning.data_owner import DataOwner
from secp_spu.tuning.driver import set_up, tune
from secp_spu.tuning.limits import make_allowance
from secp_spu.tuning.model_owner import ModelOwner
from secp_spu.tuning.parties import DATA_OWNER
from secp_spu.tuning.predict import Predictor, predict
from secp_spu.tuning.task import Text


def run_tuning(
    runtime: Runtime, config: Config, out: Path, *, resume: bool, progress: Progress, party: str | None = None
) -> None:
    """Tune a prompt, from where the run in `out` is.

    Args:
        runtime: where it runs.
        config: of the run.
        out: folder for the outputs, at the data owner.
        resume: go on with the run in `out`.
        progress: told of every step; closed at the end.
        party: of a cluster, which this process is; None for all of them.
    Raises: as DataOwner, `set_up` and `tune` do.
    """
    try:
        data_owner = runtime.actor(DATA_OWNER, DataOwner, config, out.absolute(), resume=resume)
        model_owner = runtime.actor("model_owner", ModelOwner, config)
        if runtime.disclose(data_owner.is_finished()):
            progress.line("this run has finished before: nothing is left to do")
            if line := runtime.at_home(data_owner.why_stopped()):
                progress.line(line)
            return
        allowance = make_allowance(runtime, config, party)
        tune(set_up(runtime, config, data_owner, model_owner, progress, allowance))
    finally:
        progress.close()


def run_prediction(
    runtime: Runtime,
    config: Config,
    run: Path,
    texts: Path | Sequence[Text],
    out: Path | None,
    *,
    progress: Progress,
    party: str | None = None,
) -> Actor:
    """Label texts with the prompt of a run.

    Args:
        runtime: where it runs.
        config: of the run.
        run: its folder, at the data owner.
        texts: a file of JSON lines at the data owner, or the texts.
        out: file for the results, at the data owner; None for none.
        progress: told of every step; closed at the end.
        party: of a cluster, which this process is; None for all of them.
    Returns: actor of the Predictor, which has the results.
    Raises: as Predictor and `predict` do.
    """
    try:
        predictor = runtime.actor(DATA_OWNER, Predictor, config, run, texts, out)
        model_owner = runtime.actor("model_owner", ModelOwner, config)
        predict(runtime, config, predictor, model_owner, progress, make_allowance(runtime, config, party))
        return predictor
    finally:
        progress.close()
