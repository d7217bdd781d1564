"""Releases of SPU: the installed one is known, others are refused in one line, and the locks hold what they should."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from secp_spu import spu_release
from secp_spu.auditing import AuditError, audit_program
from secp_spu.errors import ConfigError
from secp_spu.spu_release import RELEASES, installed_release, require_secretflow

ROOT = Path(__file__).parent.parent
PROGRAM = """module @p attributes {{mhlo.is_dynamic = false, {version}}} {{
  func.func @main(%arg0: tensor<2x!pphlo.secret<f32>>) -> tensor<2x!pphlo.secret<f32>> {{
    return %arg0 : tensor<2x!pphlo.secret<f32>>
  }}
}}
"""


def pretend(monkeypatch, **versions):
    """Other versions of packages than are installed; None for one that is missing."""

    def version(package):
        found = versions[package] if package in versions else metadata.version(package)
        if found is None:
            raise metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(spu_release, "version", version)


@pytest.mark.smoke
def test_the_installed_release_is_known_and_compiles_programs_that_say_so():
    import spu

    assert installed_release().version == metadata.version("spu") == spu.__version__


@pytest.mark.smoke
@pytest.mark.parametrize("version", RELEASES)
def test_the_audit_takes_programs_of_known_releases(version):
    assert audit_program(PROGRAM.format(version=f'pphlo.version = "{version}"'), ["x"]).openings == ()


@pytest.mark.parametrize("version", ["0.9.6", "0.10.0", ""])
def test_the_audit_refuses_programs_of_other_releases(version):
    with pytest.raises(AuditError, match=rf"p, line 1: was compiled by SPU {version}, but the audit knows"):
        audit_program(PROGRAM.format(version=f'pphlo.version = "{version}"'), ["x"], program="p")


def test_the_audit_refuses_a_program_without_a_release():
    with pytest.raises(AuditError, match="p, line 1: is not understood"):
        audit_program(PROGRAM.format(version='other.version = "0.9.5"'), ["x"], program="p")


@pytest.mark.parametrize("version", ["0.9.6", "0.10.0", None])
def test_another_spu_is_refused_with_the_locks_that_work(monkeypatch, version):
    pretend(monkeypatch, spu=version)
    expected = (
        f"spu {version or '(none)'} is installed, but secp_spu works with 0.9.5 (requirements/core.txt) or "
        "0.10.0.dev20251211 (requirements/spu10.txt): install one of these locks"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        installed_release()


@pytest.mark.parametrize("release", RELEASES.values(), ids=lambda release: release.version)
def test_a_jax_that_spu_cannot_import_is_refused(monkeypatch, release):
    pretend(monkeypatch, spu=release.version, jax="0.7.2")
    version = re.escape(release.version)
    with pytest.raises(ConfigError, match=rf"^jax 0\.7\.2 is installed, but spu {version} works with"):
        installed_release()


def test_the_command_refuses_in_one_line_before_it_imports_spu(tmp_path):
    site = tmp_path / "spu-0.11.0.dist-info"
    site.mkdir()
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: spu\nVersion: 0.11.0\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from secp_spu.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: spu 0.11.0 is installed, but secp_spu works with 0.9.5")


def test_a_cluster_needs_a_release_that_secretflow_has(monkeypatch):
    pretend(monkeypatch, spu="0.9.5", jax="0.4.34")
    require_secretflow()
    pretend(monkeypatch, spu="0.10.0.dev20251211", jax="0.8.0")
    with pytest.raises(ConfigError, match=r"`cluster:` needs SecretFlow, which works with spu 0\.9\.5: install req"):
        require_secretflow()


@pytest.mark.parametrize("release", RELEASES.values(), ids=lambda release: release.version)
def test_a_lock_has_the_versions_of_its_release_and_names_no_host(release):
    text = (ROOT / release.lock).read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    assert (pins["spu"], pins["jax"], pins["jaxlib"]) == (release.version, release.jax, release.jax)
    assert "://" not in text
    for line in text.splitlines():
        assert re.match(r"[\w.-]+==[\w.]+( ;|$)", line), line


@pytest.mark.skipif(installed_release().secretflow, reason="tests/cli runs this with SPU 0.9.5")
@pytest.mark.slow("a release of SPU runs the whole way, and logs nothing; under MPC")
@pytest.mark.smoke
def test_one_generation_of_the_demo(tmp_path):
    command = [sys.executable, "-m", "secp_spu", "demo", "--quiet", "--set", "tuning.generations=1", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["accuracy_before"] == 0.5
    assert report["forward_calls"] > 0
    assert report["ledger"]["online"]["operations"]["spu.reveal"]["sends"] > 0
