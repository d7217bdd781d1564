"""`import secretflow` without the parts that nothing here uses; in processes, for an import is once for all."""

import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="SecretFlow is not installed")

BEGIN = "import sys, secp_spu.runtime.secretflow.runtime, secretflow"


def _run(code):
    return subprocess.run([sys.executable, "-c", f"{BEGIN}\n{code}"], capture_output=True, text=True, check=False)


@pytest.mark.slow("what the runtime imports of SecretFlow; a process that imports it")
def test_what_nothing_here_uses_is_not_imported():
    done = _run("print([name for name in ('sklearn', 'secretflow.component.core', 's3fs') if name in sys.modules])")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow("other code in the process still has all of SecretFlow; a process that imports all of it")
def test_it_is_there_when_something_uses_it():
    done = _run(
        "from secretflow.component.core import Registry\n"
        "print(len(Registry.get_definitions()) > 50, secretflow.data.vertical.VDataFrame.__name__)\n"
        "print(secretflow.preprocessing.StandardScaler.__name__, secretflow.ml.linear.__name__)"
    )
    assert done.stdout.split() == [
        *("True", "VDataFrame"),  # all components are registered, as SecretFlow's own import does
        *("StandardScaler", "secretflow.ml.linear"),
    ], done.stderr
