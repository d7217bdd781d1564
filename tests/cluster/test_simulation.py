"""SecretFlow's simulation mode against the in-process runtime: the same run, the same messages."""

import json
import subprocess
from pathlib import Path

import pytest
from small import COMMAND, SMALL

from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.runtime import LocalRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, set_up, tune

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=2", "tuning.seed=4"]
MPC_ERROR = 0.03  # of a loss, between any two runs: see test_tune

DEALT = ["correlations=dealt", "cluster.dealer=dave"]
SEMI2K = ["protocol=semi2k", "parties=2", "trusted_first_party=true", "cluster.compute=[alice, bob]"]


PRIVATE = ["model.embedding=private"]
ADAM = [
    "tuning.optimizer=adam",
    "model.reveal=gradients",
    *(f"tuning.{key}=null" for key in ("population", "intrinsic_dim")),
    "tuning.alpha=1",
]


@pytest.mark.parametrize(
    "settings", [[*PRIVATE, *ADAM], [*SEMI2K, *DEALT]], ids=["aby3-joint-private-adam", "semi2k-dealt"]
)
def test_simulation_is_the_run_in_one_process(tmp_path, settings):
    here, there = tmp_path / "one_process", tmp_path / "simulation"
    config = load_config(Path("configs/simulation.yaml"), [*SETTINGS, *settings])
    with LocalRuntime(config.protocol, config.parties, correlations=config.correlations) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, here, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
    command = [COMMAND, "tune", "--config", "configs/simulation.yaml", "--out", there]
    done = subprocess.run(
        [*command, *(f"--set={setting}" for setting in (*SETTINGS, *settings))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "outputs in" in done.stdout
    one, other = RunRecord.load(here), RunRecord.load(there)
    assert one.generations[0].candidates == other.generations[0].candidates
    if not config.tuning.uses_gradients:  # the next steps have the arithmetic's noise
        assert [g.candidates for g in one.generations] == [g.candidates for g in other.generations]
    for ours, theirs in zip(one.generations, other.generations, strict=True):
        assert theirs.losses == pytest.approx(ours.losses, abs=2 * MPC_ERROR)
    assert one.accuracy_after == other.accuracy_after
    _check_reports(*(json.loads((folder / "report.json").read_text()) for folder in (here, there)))


def _check_reports(one, other):
    assert one.keys() == other.keys()
    for phase, cost in one["ledger"].items():
        found = other["ledger"][phase]
        assert {unit: found[unit] for unit in ("bytes_total", "bytes", "sends")} == {
            unit: cost[unit] for unit in ("bytes_total", "bytes", "sends")
        }
        for kind in ("operations", "programs"):
            assert {k: (v["bytes_total"], v["sends"]) for k, v in found[kind].items()} == {
                k: (v["bytes_total"], v["sends"]) for k, v in cost[kind].items()
            }
        assert found["seconds"] > 0
