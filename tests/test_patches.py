"""The patches against pristine files of the wheels, which are known by the hashes that the wheels record."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import apply_patches

INSTALLED = Path(sysconfig.get_path("platlib"))
PATCHES = [apply_patches.Patch.read(path) for path in sorted(apply_patches.PATCHES.glob("*.patch"))]


@pytest.fixture
def pristine(tmp_path):
    """The patched files and their packages' metadata, as the wheels have them."""
    for patch in PATCHES:
        info = next(INSTALLED.glob(f"{patch.package}-*.dist-info"))
        shutil.copytree(info, tmp_path / info.name, dirs_exist_ok=True)
        (tmp_path / patch.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(INSTALLED / patch.path, tmp_path / patch.path)
    apply_patches.run(tmp_path, revert=True)
    return tmp_path


def _texts(folder):
    return {patch.path: (folder / patch.path).read_bytes() for patch in PATCHES}


def test_reverted_files_are_those_of_the_wheels(pristine):
    for patch in PATCHES:
        record = (next(pristine.glob(f"{patch.package}-*.dist-info")) / "RECORD").read_text()
        expected = next(line.split(",")[1] for line in record.splitlines() if line.startswith(f"{patch.path},"))
        digest = hashlib.sha256((pristine / patch.path).read_bytes()).digest()
        assert expected == "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def test_apply_twice_and_revert_twice(pristine):
    before = _texts(pristine)
    assert all(line.endswith(": applied") for line in apply_patches.run(pristine))
    after = _texts(pristine)
    assert all(before[path] != after[path] for path in before)
    assert all(line.endswith(": already applied") for line in apply_patches.run(pristine))
    assert all(line.endswith(": already applied") for line in apply_patches.run(pristine, check=True))
    assert _texts(pristine) == after
    assert all(line.endswith(": reverted") for line in apply_patches.run(pristine, revert=True))
    assert all(line.endswith(": already reverted") for line in apply_patches.run(pristine, revert=True))
    assert _texts(pristine) == before


def test_check_names_the_script(pristine):
    with pytest.raises(apply_patches.PatchError, match=r"run python scripts/apply_patches\.py"):
        apply_patches.run(pristine, check=True)


def test_another_version_is_refused_and_nothing_changed(pristine):
    before = _texts(pristine)
    metadata = next(pristine.glob("spu-*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.9.5", "Version: 0.9.6"))
    with pytest.raises(apply_patches.PatchError, match=r"is for spu 0\.9\.5, but 0\.9\.6 is installed"):
        apply_patches.run(pristine)
    assert _texts(pristine) == before


def test_a_file_that_is_neither_is_refused_and_nothing_changed(pristine):
    path = pristine / "spu/__init__.py"
    path.write_text(path.read_text().replace("    link,\n", "    link as link,\n"))
    before = _texts(pristine)
    with pytest.raises(apply_patches.PatchError, match=r"spu/__init__\.py is neither"):
        apply_patches.run(pristine)
    assert _texts(pristine) == before


def test_a_package_that_is_not_there_is_skipped(pristine):
    shutil.rmtree(next(pristine.glob("secretflow-*.dist-info")))
    lines = apply_patches.run(pristine)
    assert "secretflow-1.13.0b0-cluster-def.patch: skipped, secretflow is not installed" in lines
    assert "spu-0.9.5-logging.patch: applied" in lines


def test_a_hard_link_elsewhere_is_left_alone(pristine, tmp_path):
    cached = tmp_path / "cached.py"
    cached.hardlink_to(pristine / "spu/__init__.py")
    before = cached.read_bytes()
    apply_patches.run(pristine)
    assert cached.read_bytes() == before


def test_the_environment_is_patched():
    done = subprocess.run(
        [sys.executable, "scripts/apply_patches.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("patched", [True, False])
def test_each_patch_mends_what_it_says(pristine, patched):
    """The two files themselves, run in place of the installed ones: the faults are there, and go."""
    if patched:
        apply_patches.run(pristine)
    program = f"""
import importlib.util, json, sys, spu
text = open({str(pristine / "spu/__init__.py")!r}).read()
names = dict(__name__="spu", __package__="spu", __path__=spu.__path__)
exec(compile(text, "spu", "exec"), names)
spec = importlib.util.spec_from_file_location("testing", {str(pristine / "secretflow/utils/testing.py")!r})
testing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(testing)
found = []
for given in (None, dict(protocol=spu.ProtocolKind.ABY3, field="FM64")):
    try:
        config = spu.RuntimeConfig()
        config.ParseFromJsonString(json.dumps(testing.cluster_def(["a", "b", "c"], given)["runtime_config"]))
        found.append([config.protocol.name, config.field.name])
    except TypeError as error:
        found.append(str(error))
print(json.dumps(["logging" in names, *found]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    fault = "Object of type ProtocolKind is not JSON serializable"
    assert found == ([True, ["ABY3", "FM128"], ["ABY3", "FM64"]] if patched else [False, fault, fault])
