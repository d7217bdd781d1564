"""A pass has as many sequences as its estimated memory allows; tests/bench holds the estimate against passes."""

from dataclasses import replace

import numpy as np
import pytest

from secp_spu.bench import SHAPES
from secp_spu.runtime import LocalRuntime, pass_bytes, sequences_within
from secp_spu.runtime.memory import available_bytes


@pytest.mark.parametrize("attention", ["rfa", "softmax"])
def test_as_many_sequences_as_the_limit_holds(attention):
    config = replace(SHAPES["minilm"], attention=attention)
    for limit in (2 * 10**9, 10**10):
        count = sequences_within(limit, config, 56)
        assert pass_bytes(config, count, 56) <= limit < pass_bytes(config, count + 1, 56)
    assert sequences_within(0, config, 56) == 1


@pytest.mark.parametrize(
    "larger", [{"width": 3840}, {"intermediate": 3000}, {"attention": "rfa", "features": 512}, {"activation": "gelu"}]
)
def test_the_estimate_grows_with_every_size(larger):
    config = replace(SHAPES["minilm"], activation="relu")
    assert pass_bytes(config, 4, 56) < pass_bytes(config, 5, 56) < pass_bytes(config, 5, 57)
    assert pass_bytes(config, 4, 56) < pass_bytes(replace(config, **larger), 4, 56)


def test_a_containers_limit_counts(tmp_path):
    """2 GiB, of which one is used and a quarter of that can be had back."""
    files = {"memory.max": 2**31, "memory.current": 2**30, "memory.stat": f"anon 5\ninactive_file {2**28}\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(str(content))
    assert available_bytes(tmp_path) == 2**31 - 2**30 + 2**28
    (tmp_path / "memory.max").write_text("max\n")
    free = available_bytes(tmp_path)
    assert free > 2**31 - 2**30 + 2**28
    assert available_bytes(tmp_path / "none") == pytest.approx(free, rel=0.2)


def test_parties_of_one_machine_share_its_memory():
    with LocalRuntime("semi2k", 4) as runtime:
        np.testing.assert_allclose(4 * runtime.free_memory_bytes(), available_bytes(), rtol=0.2)
