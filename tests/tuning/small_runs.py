"""Small runs of the demo's task, and what a prompt answers: what tests of tuned prompts share."""

import json

import numpy as np

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.runtime import Runtime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, Predictor, load_run, make_runtime, predict, set_up, tune

SMALL = (
    "task.shots=2",
    "task.validation_shots=2",
    "task.test_examples=6",
    "tuning.population=4",
    "tuning.generations=2",
    "tuning.seed=2",
)
LABELS = (
    "model.head=label_embeddings",
    "task.template='{text}'",
    'task.labels={negative: "no", positive: "yes the visit was good"}',
)
PRIVATE = "model.embedding=private"


def tune_in_plaintext(folder, *settings):
    """Tune a prompt, quickly; returns the folder."""
    config = load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", *settings])
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
    return folder


def answers_of(config, folder, prompt):
    """A run's logits on its test texts, in plaintext [texts, labels]; prompt: "untuned" or "best"."""
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=prompt == "best")
        session = set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        return np.concatenate([part.value for part in session.logits(prompt, 0, 1, "test")])


class Kept(Predictor):
    """Keeps the logits."""

    logits: list[np.ndarray]

    def begin(self):
        super().begin()
        self.logits = []

    def take(self, logits):
        self.logits.append(logits)
        super().take(logits)


def predict_texts(run, texts, out, *settings, runtime: Runtime | None = None, progress=None):
    """Logits [texts, labels] of a run's prompt, and the lines that were written."""
    config = load_run(run, settings)
    with runtime or make_runtime(config) as runtime:
        predictor = runtime.actor(DATA_OWNER, Kept, config, run, texts, out)
        predict(runtime, config, predictor, runtime.actor("model_owner", ModelOwner, config), progress or Progress())
        logits = np.concatenate(predictor._instance.logits)
    return logits, [json.loads(line) for line in out.read_text().splitlines()]
