"""What is secret is for its owner alone, whatever the umask and whatever was there before."""

import json
import os
import stat

import numpy as np
import pytest

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config, save_config
from secp_spu.files import make_private_folder, write_whole
from secp_spu.model import load_transformer_config
from secp_spu.progress import Progress
from secp_spu.tuning import (
    DATA_OWNER,
    DataOwner,
    ModelOwner,
    Predictor,
    SoftPrompt,
    export_peft,
    load_run,
    make_runtime,
    save_peft,
    save_prompt,
    set_up,
    tune,
)

OUTPUTS = {"config.yaml", "loss.png", "costs.png", "report.json", "prompt.safetensors", "checkpoint.json"}
SMALL = [
    *("protocol=plaintext", "task.shots=1", "task.validation_shots=1", "task.test_examples=2"),
    *("tuning.population=4", "tuning.generations=1"),
]


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def _tune(folder, *settings):
    config = load_config(DEMO_CONFIG, [*SMALL, *settings])
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=folder.exists())
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))


@pytest.mark.usefixtures("umask")
def test_a_secret_file_and_the_folders_made_for_it_are_their_owners(tmp_path):
    for _ in range(2):
        write_whole(tmp_path / "a" / "b" / "secret", b"1", secret=True)
        assert (_mode(tmp_path / "a" / "b" / "secret"), _mode(tmp_path / "a" / "b"), _mode(tmp_path / "a")) == (
            *(0o600, 0o700, 0o700),
        )
        (tmp_path / "a" / "b" / "secret").chmod(0o644)  # as an earlier version left it


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    write_whole(tmp_path / "secret", b"1", secret=True)
    assert _mode(tmp_path) == 0o755


def test_a_file_that_is_not_secret_has_the_umasks_mode(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "new" / "public", b"1")
    finally:
        os.umask(before)
    assert (_mode(tmp_path / "new"), _mode(tmp_path / "new" / "public")) == (0o755, 0o644)


@pytest.mark.slow("each file's mode, of every writer; two runs and more")
def test_nobody_else_reads_a_runs_outputs_also_not_after_a_resume(tmp_path):
    before = os.umask(0)
    try:
        run = tmp_path / "runs" / "run"
        _tune(run)
        for path in run.iterdir():
            path.chmod(0o644)
        _tune(run, "tuning.generations=2")
        export_peft(run, tmp_path / "exports" / "adapter")
        texts = tmp_path / "texts.jsonl"
        texts.write_text(json.dumps({"text": "the salad was good"}))
        predictor = Predictor(load_run(run), run, texts, tmp_path / "labels" / "out.jsonl")
        predictor.begin()
        predictor.take(np.zeros((1, 2), np.float32))
        predictor.finish()
    finally:
        os.umask(before)
    assert {path.name for path in run.iterdir()} == OUTPUTS
    made = [path for name in ("runs", "exports", "labels") for path in [tmp_path / name, *(tmp_path / name).rglob("*")]]
    assert len(made) == 3 + 2 + len(OUTPUTS) + 2 + 1
    for path in made:
        assert _mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.usefixtures("umask")
def test_what_is_saved_by_itself_is_the_owners_too(tmp_path):
    prompt = np.zeros((2, 128), np.float32)
    save_config(load_config(DEMO_CONFIG), tmp_path / "config.yaml")
    save_prompt(tmp_path / "vectors.safetensors", SoftPrompt.of_vectors(prompt))
    save_prompt(tmp_path / "tokens.safetensors", SoftPrompt(np.array([5, 7]), prompt))
    save_peft(tmp_path / "adapter", prompt, load_transformer_config(load_config(DEMO_CONFIG).model.folder))
    assert _mode(tmp_path / "adapter") == 0o700
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert {_mode(path) for path in files} == {0o600}
