"""What the README shows is true: its Python runs, its commands and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_configuration_shown_is_the_demos():
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")


def test_every_make_target_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)\b`?", README)) - {"on"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
