import subprocess
import sys

import pytest

from secp_spu.runtime import heap

PROGRAM = """
import sys
import numpy as np
import psutil
from secp_spu.runtime.heap import give_back, keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss // 2**20

def make_and_free():
    arrays = [np.ones(2**20) for _ in range(25)]  # 200 MB
    del arrays

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
make_and_free()
kept = resident()
give_back()
print(kept - before, resident() - before)
"""


@pytest.mark.parametrize(("mode", "kept"), [("keep", True), ("do not", False)])
def test_freed_memory_is_kept_until_it_is_given_back(mode, kept):
    """200 MB in arrays of 8 MB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    after_free, after_giving_back = map(int, done.stdout.split())
    assert (after_free > 150) == kept
    assert after_giving_back < 50


def test_a_system_without_glibc_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.keep_freed_memory()
    heap.give_back()
