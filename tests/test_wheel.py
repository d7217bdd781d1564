"""The wheel: it holds the whole package, and the package runs from it alone, in any folder."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from secp_spu.spu_release import RELEASES

pytest.importorskip("hatchling", reason="the build backend is not installed")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this tree, unpacked."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(str(path.relative_to(folder.parent)) for path in found)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    packaged = files(wheel / "secp_spu")
    assert packaged == files(ROOT / "secp_spu")
    for needed in ("demo/config.yaml", "demo/model/model.safetensors", "bench/few_shot/sst2.yaml"):
        assert f"secp_spu/{needed}" in packaged
    assert sorted(path.name for path in wheel.iterdir()) == ["secp_spu", "secp_spu-0.1.0.dist-info"]


def test_the_wheel_asks_for_the_first_release_of_spu(wheel):
    fields = Parser().parsestr((wheel / "secp_spu-0.1.0.dist-info" / "METADATA").read_text(encoding="utf-8"))
    release = next(iter(RELEASES.values()))
    assert {f"spu=={release.version}", f"jax=={release.jax}"} <= set(fields.get_all("Requires-Dist"))
    assert fields["Requires-Python"] == "<3.12,>=3.10"


@pytest.mark.slow("no file is missing from the wheel; a whole run from it")
def test_the_demo_runs_from_the_wheel_in_another_folder(wheel, tmp_path):
    """Without MPC: how the demo runs under ABY3 is tested elsewhere."""
    command = [sys.executable, "-m", "secp_spu", "demo", "--set", "protocol=plaintext", "--set", "tuning.generations=1"]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    where = run(sys.executable, "-c", "import secp_spu; print(secp_spu.__file__)").stdout.strip()
    assert Path(where) == wheel / "secp_spu" / "__init__.py"
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "runs" / "demo" / "report.json").is_file()
