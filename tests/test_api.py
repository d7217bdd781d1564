"""The Python API: what users of the package import."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest

import secp_spu
from secp_spu import (
    DEMO_CONFIG,
    ConfigError,
    Prediction,
    Progress,
    Recipe,
    TunedRun,
    adapt,
    audit,
    export,
    load_config,
    load_run,
    predict,
    tune,
)
from secp_spu.model import load_embeddings
from secp_spu.tuning import load_peft, load_prompt
from secp_spu.tuning.programs import audit_config

PLAINTEXT = [
    "protocol=plaintext",
    "task.shots=2",
    "task.validation_shots=2",
    "task.test_examples=6",
    "tuning.population=4",
    "tuning.generations=2",
    "tuning.seed=2",
]
TEXTS = ["the salad was good", "we waited for an hour", "a fine visit"]


class Recorder(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.closed = [], 0

    def line(self, text):
        self.lines.append(text)

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tune(DEMO_CONFIG, out=tmp_path_factory.mktemp("runs") / "run", settings=PLAINTEXT)


def test_importing_the_package_imports_nothing_else():
    code = "import sys, secp_spu; print(sorted(name for name in sys.modules if name.split('.')[0] in "
    code += "('secp_spu', 'jax', 'numpy', 'pydantic', 'spu', 'secretflow')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['secp_spu', 'secp_spu._threads']"


def test_the_package_says_its_version():
    assert secp_spu.__version__ == version("secp-spu")
    assert "__version__" in dir(secp_spu)


CONFIG = "`config` is {}, but must be a secp_spu.Config or a path"
RUN = "`run` is {}, but must be a secp_spu.TunedRun or the path of its folder"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tune(None, out="out"), CONFIG.format(None)),
        (lambda: tune({"protocol": "aby3"}, out="out"), CONFIG.format("{'protocol': 'aby3'}")),
        (lambda: audit(3), CONFIG.format(3)),
        (lambda: tune(DEMO_CONFIG, out=None), "`out` is None, but must be a path"),
        (lambda: load_config(b"demo.yaml"), "`path` is b'demo.yaml', but must be a path"),
        (lambda: load_run(None), "`folder` is None, but must be a path"),
        (lambda: predict(None, ["a text"]), RUN.format(None)),
        (lambda: export(3, "out"), RUN.format(3)),
        (lambda: export("run", None), "`out` is None, but must be a path"),
        (lambda: adapt(None, out="out"), "`recipe` is a NoneType, but must be a secp_spu.Recipe"),
        (
            lambda: tune(DEMO_CONFIG, out="out", progress=True),
            "`progress` is True, but must be a secp_spu.progress.Progress, or None",
        ),
        (lambda: Recipe(model=None, corpus="lines.txt"), "`model` is None, but must be a path"),
        (
            lambda: load_config(DEMO_CONFIG, "protocol=plaintext"),
            "`settings` is 'protocol=plaintext', but must be a list, such as ['tuning.population=8']",
        ),
        (
            lambda: tune(DEMO_CONFIG, out="out", settings=[3]),
            "`settings` holds 3, but must hold texts, such as 'tuning.population=8'",
        ),
    ],
)
def test_arguments_of_another_type_are_named(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": -2}, "`steps` is -2, but must be a whole number, 1 or more"),
        ({"max_tokens": "40"}, "`max_tokens` is '40', but must be a whole number, 2 or more"),
        ({"features": 0}, "`features` is 0, but must be a whole number, from 1 to 65536"),
        ({"seed": True}, "`seed` is True, but must be a whole number, 0 or more"),
        ({"rate": "fast"}, "`rate` is 'fast', but must be a number above 0"),
        ({"rate": float("nan")}, "`rate` is nan, but must be a number above 0"),
        ({"activation": "relu"}, "`activation` is 'relu', but must be series or quadratic, or None"),
        ({"bf16": 1}, "`bf16` is 1, but must be True or False"),
    ],
)
def test_a_recipe_names_what_is_not_allowed(values, message):
    with pytest.raises(ConfigError) as caught:
        Recipe(model="model", corpus="lines.txt", **values)
    assert str(caught.value) == message


def test_every_name_is_there_and_is_listed():
    for name in secp_spu.__all__:
        assert getattr(secp_spu, name) is not None
    assert set(secp_spu.__all__) <= set(dir(secp_spu))
    with pytest.raises(AttributeError, match="module 'secp_spu' has no attribute 'tuned'"):
        secp_spu.tuned  # noqa: B018 - what is tested


def test_tuning_returns_the_prompt_its_history_accuracies_and_costs(run):
    report = json.loads((run.folder / "report.json").read_text())
    assert isinstance(run, TunedRun)
    assert run.prompt.dtype == np.float32
    np.testing.assert_array_equal(run.prompt, load_prompt(run.folder / "prompt.safetensors").start)
    assert run.history == report["loss"]
    assert len(run.history) == len(run.validation_history) == 2
    assert (run.accuracy_before, run.accuracy_after) == (report["accuracy_before"], report["accuracy_after"])
    assert run.costs == report["ledger"]
    assert run.config.protocol == "plaintext"


@pytest.mark.slow("the API and the command give one prompt, exactly; a process beside a run")
def test_the_command_line_tunes_the_same_prompt(run, tmp_path):
    settings = [f"--set={setting}" for setting in PLAINTEXT]
    command = [sys.executable, "-m", "secp_spu", "tune", "--config", DEMO_CONFIG, "--out", tmp_path / "run", *settings]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    np.testing.assert_array_equal(load_run(tmp_path / "run").prompt, run.prompt)


@pytest.mark.slow("the API resumes and shows progress as told; three runs")
def test_tuning_takes_a_configuration_and_goes_on_with_a_run(tmp_path):
    config = load_config(str(DEMO_CONFIG), PLAINTEXT)
    shorter = config.model_copy(update={"tuning": config.tuning.model_copy(update={"generations": 1})})
    progress = Recorder()
    first = tune(shorter, out=str(tmp_path / "run"), progress=progress)
    assert progress.closed == 1
    assert any(line.startswith("generation   1:") for line in progress.lines)
    with pytest.raises(ConfigError, match="holds this run already"):
        tune(config, out=tmp_path / "run")
    second = tune(config, out=tmp_path / "run", resume=True)
    assert second.history[:1] == first.history
    again = Recorder()
    assert tune(config, out=tmp_path / "run", resume=True, progress=again).history == second.history
    assert again.lines == ["this run has finished before: nothing is left to do"]
    with pytest.raises(ValueError, match="settings go with a configuration's file"):
        tune(config, out=tmp_path / "other", settings=["tuning.seed=1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tuning.populaton=4"], "did you mean tuning.population"),
        (["task.pool=absent.jsonl"], "absent.jsonl does not exist"),
        (["task.shots=1000"], "task.shots"),
    ],
)
def test_bad_input_is_a_configuration_error(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        tune(DEMO_CONFIG, out=tmp_path / "run", settings=[*PLAINTEXT, *settings])
    assert not (tmp_path / "run").exists()


def test_predictions_are_those_of_the_command_line(run, tmp_path):
    found = run.predict(TEXTS)
    assert found == predict(run.folder, ({"text": text, "id": 1} for text in TEXTS))
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    command = [sys.executable, "-m", "secp_spu", "predict", "--run", run.folder, "--texts", texts, "--out", out]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert found == [Prediction(line["label"], line["scores"]) for line in lines]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "hold at least one"),
        ("a text", "`texts` is a str, but must be a list"),
        (None, "`texts` is a NoneType, but must be a list"),
        (3, "`texts` is a int, but must be a list"),
        ({"text": "a text"}, "`texts` is a dict, but must be a list"),
        (["fine", b"abc"], r"`texts`\[1\] is b'abc', but must be a string, or an object with the fields"),
        (["fine", ""], r"`texts`\[1\]: `text` is blank: leave that text out"),
        (["half \ud83d"], r"`texts`\[0\]: `text` holds '\\ud83d', half of a character"),
        ([{"words": "a text"}], r"`texts`\[0\] has no text `text`, which task.template wants"),
        (["fine", {"text": 3}], r"`texts`\[1\]: `text` is 3, but must be a text"),
    ],
)
def test_texts_that_do_not_fit_are_refused(run, texts, message):
    with pytest.raises(ConfigError, match=message):
        predict(run, texts)


def test_strings_are_for_templates_of_one_field(run):
    task = run.config.task.model_copy(update={"template": "{text} {title} : {mask}"})
    two = replace(run, config=run.config.model_copy(update={"task": task}))
    with pytest.raises(ConfigError, match=r"`texts`\[0\] is a string, but task.template has fields text, title"):
        predict(two, ["a text"])


def test_a_prompt_of_words_comes_out_as_vectors_and_as_an_adapter(tmp_path):
    run = tune(DEMO_CONFIG, out=tmp_path / "run", settings=[*PLAINTEXT, "model.embedding=private"])
    words = load_embeddings(run.config.model.folder)[1]["word"]["embedding"]
    np.testing.assert_array_equal(run.prompt, load_prompt(tmp_path / "run" / "prompt.safetensors").vectors(words))
    assert run.export(str(tmp_path / "adapter")) == tmp_path / "adapter"
    np.testing.assert_array_equal(load_peft(tmp_path / "adapter").start, run.prompt)
    assert export(tmp_path / "run", tmp_path / "other") == tmp_path / "other"
    assert len(run.predict(TEXTS)) == 3


def test_a_folder_without_a_finished_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="holds no tuned prompt"):
        load_run(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("prompt.safetensors", "config.yaml"):
        (copy / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(ConfigError, match="report.json cannot be read"):
        load_run(copy)
    for content in ("{", "[]", '{"loss": []}'):
        (copy / "report.json").write_text(content)
        with pytest.raises(ConfigError, match="report.json cannot be read"):
            load_run(copy)


@pytest.mark.slow("the API audits each program of a configuration; compiles them twice")
def test_the_audit_is_that_of_the_command_line():
    programs = audit(DEMO_CONFIG)
    expected = audit_config(load_config(DEMO_CONFIG)).programs
    assert [program.audit for program in programs] == [program.audit for program in expected]
    assert "Program(layer, " in repr(programs)
    assert len(repr(programs)) < 60 * len(programs)
    with pytest.raises(ConfigError, match="where nothing is masked"):
        audit(DEMO_CONFIG, settings=["protocol=plaintext"])


def test_adapting_takes_a_recipe(tmp_path):
    progress = Recorder()
    recipe = Recipe(model="absent", corpus=str(tmp_path / "corpus.txt"))
    with pytest.raises(Exception, match="absent"):
        adapt(recipe, out=str(tmp_path / "out"), progress=progress)
    assert progress.closed == 1
