"""A run's record survives its file; a folder belongs to one run."""

import json

import pytest

from secp_spu.config import ConfigError
from secp_spu.runtime import Ledger
from secp_spu.tuning import RunRecord, Usage, open_run
from secp_spu.tuning.record import FILE_NAME, Generation


def _record():
    record = RunRecord("digest", best=[0.1, -1e-17, 1 / 3], best_validation_loss=0.25, accuracy_before=0.5)
    record.generations.append(Generation("print", [0.1 + 0.2, 1e-300], 0.25))
    record.usage = Usage(1.5, 7, Ledger(3).state())
    return record


def test_every_digit_survives(tmp_path):
    _record().save(tmp_path)
    assert RunRecord.load(tmp_path) == _record()


def test_nothing_but_the_checkpoint_is_left_behind(tmp_path):
    _record().save(tmp_path)
    _record().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"digest": "x", "more": 1})])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ConfigError, match="is no checkpoint"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"best": []},
        {"best": "x"},
        {"best_validation_loss": None},
        {"generations": []},
        {"usage": {"seconds": "x", "forward_calls": 1, "ledger": {}}},
        {"usage": {"seconds": 1.0, "forward_calls": 1, "ledger": {"x": 1}}},
        {"generations": [{"candidates": "x", "losses": [None], "validation_loss": 1.0}]},
    ],
    ids=str,
)
def test_a_checkpoint_that_no_run_writes_is_refused(tmp_path, damage):
    record = _record()
    record.usage = Usage(1.5, 7)
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record
    content = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(content | damage))
    with pytest.raises(ConfigError, match="is no checkpoint of this version, or damaged"):
        RunRecord.load(tmp_path)


def test_a_new_folder_is_made_and_claimed(tmp_path):
    folder = tmp_path / "a" / "b"
    open_run(folder, "digest", resume=False).save(folder)
    with pytest.raises(ConfigError, match="holds this run already: add --resume"):
        open_run(folder, "digest", resume=False).save(folder)
    with pytest.raises(ConfigError, match="holds another run already"):
        open_run(folder, "other", resume=False)
    with pytest.raises(ConfigError, match="another configuration"):
        open_run(folder, "other", resume=True)
    assert open_run(folder, "digest", resume=True) == RunRecord("digest")


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        open_run(tmp_path, "digest", resume=False)
    with pytest.raises(ConfigError, match="is a file"):
        open_run(tmp_path / "mine.txt", "digest", resume=False)
    with pytest.raises(ConfigError, match="no run to resume"):
        open_run(tmp_path, "digest", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
