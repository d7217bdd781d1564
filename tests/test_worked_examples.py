"""The worked examples of docs/development.md, pasted into a copy of the package: it runs, knows them, passes ruff."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import install

EXAMPLES = {
    "attention": ["-c", "import secp_spu.cli.app as _, secp_spu.model as m; print(m.ATTENTIONS['first'].__name__)"],
    "activation": ["-m", "secp_spu", "config", "--explain", "model.activation"],
    "family": ["-c", "import secp_spu.cli.app as _, secp_spu.model as m; print(m.FAMILIES['toy'].classes)"],
    "optimizer": ["-m", "secp_spu", "config", "--explain", "tuning.optimizer"],
}
"""Arguments of Python that show each example."""

SHOWN = {"attention": "FirstToken", "activation": "a learned shift", "family": "Toy", "optimizer": "hill climbing"}


def printed(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.slow("a pasted example needs no other change; a process for each, and ruff")
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_package_with_a_pasted_example_runs(name, tmp_path):
    install(name, tmp_path)
    assert SHOWN[name] in printed(tmp_path, sys.executable, *EXAMPLES[name])
    if ruff := shutil.which("ruff", path=Path(sys.executable).parent):
        printed(tmp_path, ruff, "check", "--no-cache", "secp_spu")
        printed(tmp_path, ruff, "format", "--no-cache", "--check", "secp_spu")
