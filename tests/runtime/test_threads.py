"""Importing the package is tested in processes of its own: OpenMP reads its environment once."""

import json
import os
import subprocess
import sys

import pytest

from secp_spu._threads import keep_threads_apart

SCRIPT = """
import json, os, sys
before = dict(os.environ)
import secp_spu
after = dict(os.environ)
changed = {key: value for key, value in after.items() if before.get(key) != value}
print(json.dumps({"changed": changed, "removed": sorted(before.keys() - after.keys()), "modules": sorted(sys.modules)}))
"""


def import_with(**variables):
    """What importing secp_spu does to the environment, and which modules it loads."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_lets_openmp_start_fewer_threads():
    found = import_with()
    assert found["changed"] == {"OMP_DYNAMIC": "true"}
    assert found["removed"] == []


@pytest.mark.parametrize(
    "variables",
    [{"OMP_DYNAMIC": "false"}, {"OMP_DYNAMIC": ""}, {"OMP_THREAD_LIMIT": "3"}],
    ids=lambda v: str(*v.items()),
)
def test_importing_leaves_alone_what_the_user_has_set(variables):
    assert import_with(**variables)["changed"] == {}


def test_other_variables_of_openmp_are_no_objection():
    assert import_with(OMP_NUM_THREADS="2")["changed"] == {"OMP_DYNAMIC": "true"}


def test_importing_loads_neither_spu_nor_jax():
    """OpenMP's environment must stand before anything loads libspu; and importing does no work."""
    loaded = import_with()["modules"]
    assert "secp_spu" in loaded
    assert not {"spu", "jax", "numpy", "secp_spu.protocol", "secp_spu.runtime"} & set(loaded)


def test_runtimes_come_up_after_the_environment_is_set():
    """Whichever module of the package is imported first."""
    script = "import secp_spu.runtime, os; print(os.environ['OMP_DYNAMIC'])"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "true"


def test_keep_threads_apart_may_be_called_again(monkeypatch):
    for name in ("OMP_DYNAMIC", "OMP_THREAD_LIMIT"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    keep_threads_apart()
    keep_threads_apart()
    assert os.environ["OMP_DYNAMIC"] == "true"
