"""A new optimizer: the worked example of docs/development.md tunes the demo, and configurations know it."""

import subprocess
import sys

import numpy as np
import pytest
from pages import code, example

from secp_spu.optimizers import Search

REGISTER = """
import secp_spu.optimizers
secp_spu.optimizers.OPTIMIZERS["hill"] = HillClimbing
"""

TUNE = """
import sys
import secp_spu
settings = ["protocol=plaintext", "tuning.optimizer=hill", "tuning.generations=3"]
run = secp_spu.tune(secp_spu.DEMO_CONFIG, out=sys.argv[1], settings=settings)
print(run.config.tuning.optimizer, len(run.history))
"""


def test_it_minimises():
    optimizer = example("optimizer").HillClimbing(Search(5, 8, 1.0, [3], np.zeros(0)))
    target = np.arange(5) / 2
    for _ in range(200):
        optimizer.tell(np.square(optimizer.ask() - target).sum(-1), np.zeros((8, 0, 0)))
    assert np.square(optimizer.mean - target).sum() < np.square(target).sum() / 10


@pytest.mark.slow("the documented example tunes in a fresh process, unregistered not")
@pytest.mark.parametrize("registered", [True, False])
def test_configurations_take_its_name_from_the_registry(tmp_path, registered):
    script = code("optimizer") + (REGISTER if registered else "") + TUNE
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    if registered:
        assert done.stdout.split() == ["hill", "3"], done.stderr
    else:
        assert "tuning.optimizer is 'hill'" in done.stderr
