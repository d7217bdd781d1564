"""What the README shows is true: its Python runs, its commands and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from secp_spu.config import load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_prints_what_its_comments_say():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    expected = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()
    assert len(printed) == len(expected) == 2
    for line, comment in zip(printed, expected, strict=True):
        assert comment.startswith(line)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:configs|requirements|scripts|docs)/[\w./-]+)`", README))))
def test_every_file_named_is_there(path):
    assert (ROOT / path).exists()


def test_the_configurations_shown_are_good(tmp_path):
    demo, cluster = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert demo == (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")
    given = yaml.safe_load((ROOT / "configs" / "cluster-aby3.yaml").read_text(encoding="utf-8"))
    shown = tmp_path / "cluster.yaml"
    shown.write_text(yaml.safe_dump(given | yaml.safe_load(cluster)))
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "carol.pem", "carol.key"):
        (tmp_path / "tls" / name).touch()
    assert load_config(shown, party="carol").cluster.everyone == ["alice", "bob", "carol"]


def test_every_make_target_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)\b`?", README)) - {"on"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
