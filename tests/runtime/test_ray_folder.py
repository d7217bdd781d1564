"""A folder in which Ray could not start is a line with the fix, before Ray is asked."""

import os

import pytest

pytest.importorskip("ray", reason="SecretFlow is not installed")

from secp_spu.errors import ConfigError
from secp_spu.runtime.secretflow import ray_folder
from secp_spu.runtime.secretflow.ray_folder import SOCKET_PATH_BYTES, check_ray_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that RAY_TMPDIR leads Ray to; short as Ray wants it."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_folder, "SOCKET_PATH_BYTES", 500)
    return tmp_path / "ray"


def _refusal():
    with pytest.raises(ConfigError, match="^Ray's temporary folder .* set RAY_TMPDIR to a folder") as error:
        check_ray_folder()
    return str(error.value)


def test_a_folder_of_one_s_own_is_made_and_taken(folder):
    check_ray_folder()
    assert folder.is_dir()
    check_ray_folder()


def test_a_folder_of_another_user(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert f"{folder} belongs to another user" in _refusal()


def test_a_folder_that_cannot_be_made(folder):
    folder.write_text("a file")
    assert f"{folder} cannot be used (File exists)" in _refusal()


def test_a_folder_that_cannot_be_written_to(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"{folder} cannot be written to" in _refusal()


def test_a_path_that_is_too_long_for_sockets(folder, monkeypatch):
    """Ray's own limit, to the byte: one more and it raises."""
    monkeypatch.setattr(ray_folder, "SOCKET_PATH_BYTES", SOCKET_PATH_BYTES)
    rest = len(f"/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    longest = "/" + "x" * (SOCKET_PATH_BYTES - rest - 1)
    monkeypatch.setattr(ray_folder.Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("RAY_TMPDIR", longest)
    check_ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", longest + "x")
    assert f"would have {SOCKET_PATH_BYTES + 1} bytes, and {SOCKET_PATH_BYTES} are allowed" in _refusal()
    assert not folder.exists()
