"""A party's log: lines of JSON, for its owner's eyes alone, and an error where it cannot be written."""

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from secp_spu.errors import ConfigError
from secp_spu.runtime import Journal


def test_lines_say_when_who_and_what(tmp_path):
    path = tmp_path / "logs" / "bob.jsonl"
    Journal(path, "bob").write("opened", to="alice", shapes=[(3, 2)], numbers=6)
    Journal(path, "bob").write("end", outcome="done")
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    when = datetime.fromisoformat(first.pop("time"))
    assert abs(datetime.now(timezone.utc) - when) < timedelta(minutes=5)
    assert when.utcoffset() == timedelta(0)
    assert first == {"party": "bob", "event": "opened", "to": "alice", "shapes": [[3, 2]], "numbers": 6}
    assert second["event"] == "end"


def test_the_file_is_for_its_owners_eyes_alone_whoever_made_it(tmp_path):
    path = tmp_path / "bob.jsonl"
    path.touch(0o666)
    path.chmod(0o666)
    Journal(path, "bob").write("start")
    assert path.stat().st_mode & 0o777 == 0o600
    before = os.umask(0)
    try:
        Journal(tmp_path / "logs" / "bob.jsonl", "bob").write("start")
    finally:
        os.umask(before)
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_without_a_file_nothing_is_written():
    Journal().write("start", purpose="tuning")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "bob.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"^cluster\.log: .*bob\.jsonl cannot be written \(Is a directory\): name"):
        Journal(tmp_path / "bob.jsonl", "bob")


def test_a_full_disk_is_named():
    before = Path("/dev/full").stat().st_mode
    journal = Journal(Path("/dev/full"), "bob")
    assert Path("/dev/full").stat().st_mode == before  # a device is nobody's own
    with pytest.raises(ConfigError, match=r"/dev/full cannot be written \(No space left on device\): make room"):
        journal.write("start")
