"""A run that is small enough for a cluster on one machine: what tests of clusters share."""

from pathlib import Path

from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, set_up, tune

CONFIG = Path("configs/cluster-aby3.yaml").absolute()
SMALL = ["task.shots=2", "task.validation_shots=2", "task.test_examples=6", "tuning.population=4"]


def tune_in_plaintext(folder, settings):
    """The run of a cluster's configuration in plaintext and in this process, which proposes the same candidates."""
    config = load_config(CONFIG, [*settings, "tuning.seed=2", "protocol=plaintext", "cluster=null"])
    with PlaintextRuntime() as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
