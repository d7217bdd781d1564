"""What is wrong with an adaptation's folder is said in one sentence that names the file and the mend."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from secp_spu.adaptation.folder import FIGURE, LOG, RECIPE, STATE, State, is_finished, read_log, refuse_folder
from secp_spu.errors import ConfigError

FACTS = {"steps": 5, "rate": 0.003}
FIRST = {"step": 0, "similarity": 0.5, "prompted": 0.4, "least_kernel": -0.1}
LAST = FIRST | {"step": 5, "hidden": 0.2, "output": 0.1, "seconds": 3}
LAYERS = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
START = State(0, LAYERS, [jnp.zeros((), jnp.int32), LAYERS])
BINARY = bytes(range(256))


@pytest.fixture
def out(tmp_path):
    """Of a run that was stopped after its last step."""
    (tmp_path / RECIPE).write_text(json.dumps(FACTS))
    (tmp_path / LOG).write_text(lines(FIRST, LAST))
    replace(START, step=5).save(tmp_path)
    assert not is_finished(tmp_path, FACTS)
    return tmp_path


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def without(key):
    return lines(FIRST, {name: value for name, value in LAST.items() if name != key})


def assert_damaged(name, function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    text = str(caught.value)
    assert text.startswith("`resume`: ")
    assert f"{name} is damaged (" in text
    assert text.endswith("): leave `resume` away, and choose another `out`")
    assert len(text) < 400
    assert "\n" not in text


def test_a_run_is_finished_once_it_has_a_figure_and_no_state(out):
    (out / FIGURE).touch()
    assert not is_finished(out, FACTS)
    (out / STATE).unlink()
    assert is_finished(out, FACTS)


def test_a_recipe_of_an_earlier_version_is_read(out):
    """It called `bf16` `half`."""
    (out / RECIPE).write_text(json.dumps(FACTS | {"half": True}))
    assert not is_finished(out, FACTS | {"bf16": True})
    with pytest.raises(ConfigError, match="bf16 was True in .*, now it is False"):
        is_finished(out, FACTS | {"bf16": False})


@pytest.mark.parametrize("content", [b"", b'{"steps": 5, "ra', BINARY, b"[5]", b"[" * 10**5])
def test_a_damaged_recipe_is_named(out, content):
    (out / RECIPE).write_bytes(content)
    assert_damaged(RECIPE, is_finished, out, FACTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        lines(FIRST, LAST).encode()[:-5],
        BINARY,
        b"[" * 10**5,
        lines(FIRST, 3),
        lines([FIRST]),
        without("step"),
        without("similarity"),
        without("prompted"),
        without("least_kernel"),
        without("hidden"),
        without("output"),
        lines(FIRST, LAST | {"similarity": "high"}),
        lines(FIRST, LAST | {"similarity": float("nan")}),
        lines(FIRST, LAST | {"similarity": 10**400}),
    ],
    ids=range(15),
)
def test_a_damaged_log_is_named(out, content):
    (out / LOG).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_damaged(LOG, is_finished, out, FACTS)


def test_a_log_that_lacks_measurements_is_named(out):
    (out / LOG).unlink()
    assert_damaged(LOG, is_finished, out, FACTS)
    (out / FIGURE).touch()
    (out / LOG).write_text(lines(FIRST))
    assert_damaged(LOG, is_finished, out, FACTS)


def test_a_run_without_state_begins_anew(tmp_path):
    (tmp_path / RECIPE).write_text(json.dumps(FACTS))
    assert not is_finished(tmp_path, FACTS)
    assert read_log(tmp_path) == []
    assert START.saved(tmp_path, 5) is START


def test_a_state_is_read_as_it_was_written(out):
    found = START.saved(out, 5)
    assert found.step == 5
    np.testing.assert_array_equal(found.layers["dense"]["kernel"], LAYERS["dense"]["kernel"])


def test_a_damaged_state_is_named(out):
    whole = (out / STATE).read_bytes()
    for content in (b"", whole[:-1], whole[:20], BINARY, whole + b"\0", b"[" * 10**5):
        (out / STATE).write_bytes(content)
        assert_damaged(STATE, START.saved, out, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 6},
        {"step": -1},
        {"step": "5"},
        {"layers": {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(3)}}},
        {"layers": {"dense": {"kernel": jnp.ones((2, 3), jnp.float16), "bias": jnp.zeros(3)}}},
        {"layers": {"dense": {"kernel": 1.5, "bias": jnp.zeros(3)}}},
        {"layers": {"dense": {"kernel": {}, "bias": jnp.zeros(3)}}},
        {"layers": {"dense": {"kernel": jnp.ones((2, 3))}}},
        {"optimizer": [LAYERS]},
        {"optimizer": None},
    ],
    ids=range(10),
)
def test_a_state_of_another_shape_is_named(out, changes):
    (out / STATE).write_bytes(serialization.to_bytes(vars(START) | changes))
    assert_damaged(STATE, START.saved, out, 5)


def test_a_folder_that_a_run_cannot_have_is_named(out, tmp_path, monkeypatch):
    def refused(message, folder, *, resume=False):
        with pytest.raises(ConfigError, match=message):
            refuse_folder(folder, resume=resume)

    refused("`out` .* holds an adaptation already: choose another folder, or go on with `resume`", out)
    refuse_folder(out, resume=True)
    (tmp_path / "other").mkdir()
    refuse_folder(tmp_path / "other", resume=False)
    refused("`resume`: .*other holds no adaptation: leave `resume` away", tmp_path / "other", resume=True)
    (tmp_path / "other" / "file").touch()
    refused("`out` .*other is not empty and holds no adaptation: choose another folder", tmp_path / "other")
    for folder in (tmp_path / "other" / "file", tmp_path / "other" / "file" / "out"):
        for resume in (False, True):
            refused("`out`: .*file is a file: choose a folder", folder, resume=resume)
    refuse_folder(tmp_path / "new" / "out", resume=False)
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(f"`out`: {tmp_path} cannot be written: choose another folder", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
