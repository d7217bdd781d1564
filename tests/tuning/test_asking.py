"""What a run asks the model owner for is what is opened: no more is announced, and no more is shared."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from small_runs import LABELS, SMALL, tune_in_plaintext

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import RuntimeFailure
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, Predictor, load_run, make_runtime, predict, set_up, tune
from secp_spu.tuning.limits import Allowance, Amounts, LimitReached

RUN = ("protocol=plaintext", *SMALL)


class _Kept(Allowance):
    """Keeps what was asked for; refuses after some parts."""

    def __init__(self, parts=None):
        self.begun, self.taken, self._parts = [], [], parts

    def begin(self, asked):
        self.begun.append(asked)
        if self._parts == 0:
            raise LimitReached("refused", "texts_a_day")

    def take(self, asked):
        if self._parts is not None and len(self.taken) == self._parts:
            raise LimitReached("refused", "texts_a_day")
        self.taken.append(asked)

    def sum(self):
        return Amounts(**{key: sum(asdict(part)[key] for part in self.taken) for key in asdict(Amounts())})


class _Runtime(PlaintextRuntime):
    """Counts the rows that are opened."""

    rows = 0

    def open_to(self, party, values, **how):
        self.rows += values.spec.shape[0]
        return super().open_to(party, values, **how)


def _tune(folder, allowance, *settings, make=DataOwner):
    config = load_config(DEMO_CONFIG, [*RUN, *settings])
    with _Runtime() as runtime:
        owner = runtime.actor(DATA_OWNER, make, config, folder, resume=folder.exists())
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress(), allowance))
        return runtime.rows


@pytest.mark.slow("all announced amounts are those opened; three whole runs")
@pytest.mark.parametrize("settings", [(), ("tuning.candidates_per_call=1",), LABELS], ids=str)
def test_a_run_takes_what_it_asks_for_and_opens_that(tmp_path, settings):
    allowance = _Kept()
    rows = _tune(tmp_path / "run", allowance, *settings)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    # 2 generations of 4 candidates on 4 texts and 2 finalists on 4 texts; 2 leaders on 4 texts; one prompt on 6, twice
    assert allowance.begun == [allowance.sum()] == [Amounts(generations=2, evaluations=16, texts=68)]
    assert report["forward_calls"] == 16
    assert rows == 68


@pytest.mark.slow("work that was done is not asked for again; a run in two parts")
def test_a_resumed_run_asks_for_the_rest(tmp_path):
    with pytest.raises(LimitReached):
        _tune(tmp_path / "run", first := _Kept(parts=4))
    assert [(part.generations, part.texts) for part in first.taken] == [(0, 6), (1, 0), (0, 16), (0, 8)]
    rows = _tune(tmp_path / "run", second := _Kept())
    assert second.begun == [second.sum()] == [Amounts(generations=1, evaluations=9, texts=38)]
    assert rows == 38


def test_a_run_that_is_refused_at_the_start_leaves_nothing(tmp_path):
    with pytest.raises(LimitReached):
        _tune(tmp_path / "run", _Kept(parts=0))
    assert not (tmp_path / "run").exists()


def test_predicting_takes_what_it_asks_for(tmp_path):
    run = tune_in_plaintext(tmp_path / "run")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": f"a visit {number}"}) for number in range(5)))
    config, allowance = load_run(run), _Kept()

    def call(out):
        with make_runtime(config) as runtime:
            predictor = runtime.actor(DATA_OWNER, Predictor, config, run, texts, out)
            predict(
                *(runtime, config, predictor),
                *(runtime.actor("model_owner", ModelOwner, config), Progress(), allowance),
            )

    call(tmp_path / "out.jsonl")
    assert allowance.begun == [allowance.sum()] == [Amounts(texts=5, predictions=5)]
    allowance._parts = 0
    with pytest.raises(LimitReached):
        call(tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


class _MorePrompts(DataOwner):
    def prompts(self, which, first, last):
        return np.repeat(super().prompts(which, first, last), 3, axis=0)


class _MoreTexts(DataOwner):
    def inputs(self, split, first, last):
        return {name: np.repeat(rows, 3, axis=0) for name, rows in super().inputs(split, first, last).items()}


class _MoreReadouts(DataOwner):
    def inputs(self, split, first, last):
        inputs = super().inputs(split, first, last)
        return inputs | {"readout": np.repeat(inputs["readout"], 3, axis=0)}


class _MoreWords(DataOwner):
    def label_word_ids(self):
        return list(range(100))


class _NegativeSizes(DataOwner):
    def sizes(self):
        return {split: -size for split, size in super().sizes().items()}


class _NegativeGenerations(DataOwner):
    def public_state(self):
        return super().public_state() | {"generations": -1000}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_MorePrompts, r"has shared prompts of shape \(3, 4, 64\) where \(1, 4, 64\) was announced"),
        (_MoreTexts, "has shared 12 texts where 4 were announced"),
        (_MoreReadouts, "has shared 12 texts where 4 were announced"),
        (_MoreWords, "has shared 100 label words where 2 were announced"),
        (_NegativeSizes, "announces no numbers of texts"),
        (_NegativeGenerations, "has made -1000 of 2 generations"),
    ],
)
def test_a_data_owner_that_does_otherwise_than_it_announced_is_refused(tmp_path, make, message):
    """The model owner's process runs the same driver, and sees the shapes of what is shared."""
    with pytest.raises(RuntimeFailure, match=message):
        _tune(tmp_path / "run", _Kept(), make=make)
