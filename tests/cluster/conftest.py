"""Makes the script that starts a cluster importable; what tests of clusters share."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from small import COMMAND, CONFIG, PARTIES
from watched import watch

from secp_spu.config import load_config


@pytest.fixture(scope="session")
def authorities(tmp_path_factory):
    """Two folders with certificates of two authorities."""
    made = [tmp_path_factory.mktemp("tls") / name for name in ("ours", "theirs")]
    for folder in made:
        command = [sys.executable, "scripts/make_test_ca.py", "--config", CONFIG, "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        assert all((folder / f"{party}.key").stat().st_mode & 0o777 == 0o600 for party in ("ca", *PARTIES))
    return made


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory):
    """The folder that the model owner gives to the data owner."""
    folder = tmp_path_factory.mktemp("given") / "embeddings"
    subprocess.run([COMMAND, "embeddings", "--model", load_config(CONFIG).model.folder, "--out", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def watched(tmp_path_factory, authorities, embeddings):
    """One run, from start to end, for all tests that look at a run in order."""
    return watch(tmp_path_factory.mktemp("watched"), authorities, embeddings)
