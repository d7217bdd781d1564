"""Passes are as large as memory lets them be, and that does not change what comes out."""

import json

import numpy as np
import pytest
from passes import ENCODER, TOKENS, Small, Stages

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, set_up, tune
from secp_spu.tuning.batching import Batching, choose_batching, sequences_that_fit

SIZES = {"training": 16, "validation": 16, "test": 64}


def tuning(*settings):
    return load_config(DEMO_CONFIG, ["tuning.population=6", *settings]).tuning


@pytest.mark.parametrize(
    ("settings", "most", "expected"),
    [
        ((), 10**6, Batching(6, {"training": 16, "validation": 16, "test": 64})),
        ((), 64, Batching(3, {"training": 16, "validation": 16, "test": 64})),  # 4 fit, but two parts of 3 are as many
        ((), 50, Batching(3, {"training": 16, "validation": 16, "test": 32})),
        ((), 16, Batching(1, {"training": 16, "validation": 8, "test": 16})),
        ((), 15, Batching(1, {"training": 8, "validation": 6, "test": 13})),  # not even one: texts are split too
        ((), 1, Batching(1, {"training": 1, "validation": 1, "test": 1})),
        (("tuning.candidates_per_call=2",), 10**6, Batching(2, {"training": 16, "validation": 16, "test": 64})),
        (("tuning.candidates_per_call=2",), 16, Batching(2, {"training": 8, "validation": 8, "test": 16})),
        (("tuning.candidates_per_call=9",), 10**6, Batching(6, {"training": 16, "validation": 16, "test": 64})),
    ],
)
def test_as_much_as_fits_and_evenly(settings, most, expected):
    found = choose_batching(tuning(*settings), SIZES, most)
    assert found == expected
    for split, prompts in (("training", found.candidates), ("validation", min(2, most)), ("test", 1)):
        assert prompts * found.texts[split] <= max(most, prompts)


SMALL = (
    "protocol=plaintext",
    "task.shots=2",
    "task.validation_shots=3",
    "task.test_examples=7",
    "tuning.generations=2",
)


def run(folder, runtime):
    config = load_config(DEMO_CONFIG, SMALL)
    progress = Stages()
    with runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), progress))
    report = json.loads((folder / "report.json").read_text())
    return RunRecord.load(folder), report["batching"], progress


@pytest.mark.slow("no text or candidate is lost or swapped by passes; two runs")
def test_small_passes_give_the_losses_of_large_ones(tmp_path):
    """Of 6 candidates, 4 training, 6 validation and 7 test texts, in passes of 3 sequences; order included."""
    whole, all_at_once, _ = run(tmp_path / "whole", PlaintextRuntime())
    assert all_at_once == {"candidates": 6, "texts": {"training": 4, "validation": 6, "test": 7}}
    parts, split, progress = run(tmp_path / "parts", Small(3))
    assert split == {"candidates": 1, "texts": {"training": 2, "validation": 1, "test": 3}}
    for one, other in zip(whole.generations, parts.generations, strict=True):
        assert one.candidates == other.candidates
        assert np.diff(np.sort(one.losses)).min() > 1e-4, "take a seed whose losses tell candidates apart"
        np.testing.assert_allclose(one.losses, other.losses, atol=5e-5)
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=5e-5)
    assert (whole.accuracy_before, whole.accuracy_after) == (parts.accuracy_before, parts.accuracy_after)
    assert all(done == steps for _, steps, done in progress.stages)
    assert any("1 candidates a pass" in name for name, _, _ in progress.stages)


@pytest.mark.slow("passes between one and all, with both splits uneven; two runs")
def test_candidates_split_before_texts_are(tmp_path):
    whole, _, _ = run(tmp_path / "whole", PlaintextRuntime())
    parts, split, _ = run(tmp_path / "parts", Small(8))
    assert split == {"candidates": 2, "texts": {"training": 4, "validation": 3, "test": 7}}
    for one, other in zip(whole.generations, parts.generations, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, atol=5e-5)


def test_memory_is_asked_for_when_the_tables_are_there(tmp_path):
    """With private embedding they stay while texts are looked up, and a prediction looks up pass by pass."""

    class Asked(PlaintextRuntime):
        shapes: list

        def free_memory_bytes(self):
            self.shapes = [value.shape for value in self._values.values()]
            return super().free_memory_bytes()

    config = load_config(DEMO_CONFIG, [*SMALL, "model.embedding=private"])
    with Asked() as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, tmp_path / "run", resume=False)
        set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        assert (ENCODER.vocab_size, ENCODER.width) in runtime.shapes


def test_what_is_asked_for_fits():
    for wanted in (1, 3, 100):
        runtime = Small(wanted)
        assert sequences_that_fit(runtime, ENCODER, TOKENS) == wanted
    runtime._free = 0
    assert sequences_that_fit(runtime, ENCODER, TOKENS) == 1
