"""`bench accuracy` on the demo's task and model, whose labels are texts here."""

import json
import shutil
from typing import get_args

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from secp_spu.bench import FewShotRun, RecordFile, accuracy_cases, accuracy_tables, measure_all, write_report
from secp_spu.bench import measure_accuracy as accuracy_module
from secp_spu.bench.measure_accuracy import FEW_SHOT
from secp_spu.bench.plaintext_training import RATES, STEPS, FewShot, probe, train
from secp_spu.bench.schema import AccuracyMethod
from secp_spu.cli.app import DEMO_CONFIG, app
from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.tuning import accuracy

GENERATIONS = 2
MPC_ERROR = 0.04
"""Of a loss by similarities, which are multiplied by 20. Seen: 0.015."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task by similarity to the labels' texts, and the demo's model as if it had been adapted."""
    folder = tmp_path_factory.mktemp("few-shot")
    shutil.copytree(DEMO_CONFIG.parent / "model", folder / "model")
    shutil.copytree(DEMO_CONFIG.parent / "model", folder / "adapted")
    path = folder / "adapted" / "config.json"
    config = json.loads(path.read_text())
    config["secp_spu"]["adapted"] = {"steps": 7, "similarity": 0.98765}
    path.write_text(json.dumps(config))
    task = yaml.safe_load(DEMO_CONFIG.read_text())
    task["protocol"] = "plaintext"
    task["model"] = {"folder": str(folder / "model"), "head": "label_embeddings"}
    data = DEMO_CONFIG.parent / "data"
    task["task"] |= {"pool": str(data / "pool.jsonl"), "test": str(data / "test.jsonl"), "template": "{text}"}
    task["task"] |= {"labels": {"negative": "no", "positive": "yes the visit was good"}, "test_examples": 20}
    task["tuning"] |= {"population": 4}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture(scope="module", autouse=True)
def tasks(folder):
    """All tasks are this one."""
    with pytest.MonkeyPatch.context() as patched:
        for name in FEW_SHOT:
            patched.setitem(FEW_SHOT, name, folder / "task.yaml")
        yield


@pytest.fixture(scope="module")
def records(folder):
    """Every method, seed 0; those that take an adapted model with the demo's."""
    runs = [
        FewShotRun("sst2", method, 0, GENERATIONS, folder / "adapted" if method in accuracy_module.ADAPTED else None)
        for method in get_args(AccuracyMethod)
    ]
    found = measure_all(accuracy_cases(runs, Progress()), RecordFile(), Progress())
    return {record["variant"]: record for record in found}


@pytest.mark.slow("all methods give full records; trains, and tunes under MPC too")
def test_every_method_is_measured(records):
    for method, record in records.items():
        assert 0 <= record["accuracy"] <= 1
        assert record["validation_loss"] < 10
        of_tuning = method.startswith(("fot", "momentum", "adam"))
        assert record["generations"] == (GENERATIONS if of_tuning else 0)
        assert ("untuned" in record) == of_tuning
        assert record["model"] == (
            "fourier, 8 features, quadratic, 7 steps, similarity 0.9877"
            if method in accuracy_module.ADAPTED
            else "softmax"
        )
    assert records["fot"]["evaluations"] == GENERATIONS * 4
    assert records["adam-adapted"]["evaluations"] == records["momentum-adapted"]["evaluations"] == GENERATIONS


@pytest.mark.slow("the bench's secure run has plaintext's loss; a run under MPC")
@pytest.mark.parametrize("kind", ["fot", "momentum", "adam"])
def test_tuning_under_mpc_is_tuning_in_plaintext(records, kind):
    """The same texts, prompts and candidates or steps: only fixed point is between them."""
    plain, secure = records[f"{kind}-adapted"], records[f"{kind}-secure"]
    assert secure["validation_loss"] == pytest.approx(plain["validation_loss"], abs=MPC_ERROR)
    assert secure["online"]["bytes_total"] > 1e6
    assert "online" not in plain


@pytest.mark.slow("transfer does start from the source's prompt; needs both tasks' runs")
def test_a_transferred_prompt_is_another_start(records):
    """Source and target are the same task here: the source's gradient prompt is where tuning begins."""
    assert records["fot-transfer"]["untuned"] == records["gradient-prompt"]["accuracy"]
    assert records["fot-transfer"]["validation_loss"] != records["fot"]["validation_loss"]


@pytest.mark.slow("the report takes real records of all methods")
def test_the_table_has_a_row_a_method_and_secure_runs_beside_plaintext(records, tmp_path):
    first, second = accuracy_tables(list(records.values()))
    names = [row[0] for row in first.rows]
    assert names == [
        *(
            "softmax, initial prompt",
            "adapted, initial prompt",
            "linear probe",
            "gradient prompt tuning",
            "fine-tuning",
        ),
        *("FoT, softmax, 2 generations", "FoT, softmax, from a prompt for kitchen_reviews, 2 generations"),
        *("FoT, adapted, 2 generations", "FoT, adapted, under ABY3, 2 generations"),
        *("momentum, adapted, 2 steps", "momentum, adapted, under ABY3, 2 steps"),
        *("Adam, adapted, 2 steps", "Adam, adapted, under ABY3, 2 steps"),
    ]
    assert first.columns == ["method", "sst2", "mean"]
    assert first.rows[2][1] == f"{100 * records['probe']['accuracy']:.1f} (1)"
    assert [row[:5] for row in second.rows] == [["sst2", kind, "0", "2", "all"] for kind in ("cma", "momentum", "adam")]
    written = write_report(list(records.values()), tmp_path)
    assert {path.name for path in written} == {"report.md", "accuracy.png"}


@pytest.mark.slow("`test_texts` limits what is measured; one more tuning run")
def test_fewer_test_texts_are_a_row_of_their_own(folder, records):
    run = FewShotRun("sst2", "fot-adapted", 0, 1, folder / "adapted", test_texts=5)
    found = measure_all(accuracy_cases([run], Progress()), RecordFile(), Progress())
    assert (5 * found[0]["accuracy"]) % 1 == pytest.approx(0)
    table, *_ = accuracy_tables([records["fot-adapted"], *found])
    names = [row[0] for row in table.rows]
    assert names == ["adapted, initial prompt", "FoT, adapted, 1 generation, 5 texts", "FoT, adapted, 2 generations"]
    assert table.rows[0][1].endswith("(1)")


@pytest.mark.slow("rows of unlike test sets stay apart; needs real records")
def test_softmax_stands_beside_what_was_tested_on_as_many_texts(records):
    softmax, adapted = records["fot"], records["fot-adapted"]
    few = {**adapted, "test_texts": 5, "model": "another"}
    title = "Accuracy with 16 examples a class"

    def shown(*some):
        return {table.title.removeprefix(title): [row[0] for row in table.rows] for table in accuracy_tables(some)}

    alone = {"": ["softmax, initial prompt", "FoT, softmax, 2 generations"]}
    fewer = {"; adapted: another": ["FoT, adapted, 2 generations, 5 texts"]}
    assert shown() == {}
    assert shown(softmax) == alone
    assert shown(softmax, few) == alone | fewer
    assert [len(rows) for rows in shown(softmax, adapted, few).values()] == [4, 1]


@pytest.mark.slow("the gradient methods learn at all; their records")
@pytest.mark.parametrize("method", ["fine-tuning", "gradient-prompt"])
def test_gradients_lower_the_loss(folder, records, method):
    task = FewShot(load_config(folder / "task.yaml", ["tuning.seed=0"]))
    untrained = task.embeddings(task.texts["validation"], task.params, task.prompt[: 4 * (method != "fine-tuning")])
    logits = 20 * untrained @ np.asarray(task.labels).T
    before = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    labels = task.texts["validation"].labels
    assert records[method]["validation_loss"] < before[np.arange(len(labels)), labels].mean() - 0.01


@pytest.mark.parametrize("method", ["fine-tuning", "gradient-prompt"])
def test_each_step_at_each_rate_is_told_of(folder, monkeypatch, method):
    monkeypatch.setitem(STEPS, method, 2)
    steps = []
    train(FewShot(load_config(folder / "task.yaml", ["tuning.seed=0"])), method, lambda: steps.append(None))
    assert len(steps) == len(RATES[method]) * STEPS[method]


def test_a_probe_separates_what_is_separable(folder, monkeypatch):
    task = FewShot(load_config(folder / "task.yaml", ["tuning.seed=0"]))
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, 32))

    def embeddings(texts, _params, _prompt):
        return directions[texts.labels] + 0.1 * rng.normal(size=(len(texts.labels), 32))

    monkeypatch.setattr(task, "embeddings", embeddings)
    assert probe(task).accuracy == 1.0


def test_embeddings_do_not_depend_on_the_batch(folder, monkeypatch):
    task = FewShot(load_config(folder / "task.yaml", ["tuning.seed=0"]))
    whole = task.embeddings(task.texts["test"], task.params, task.prompt)
    monkeypatch.setattr("secp_spu.bench.plaintext_training.TEST_BATCH", 7)
    np.testing.assert_allclose(task.embeddings(task.texts["test"], task.params, task.prompt), whole, atol=1e-5)
    assert accuracy(whole @ np.asarray(task.labels).T, task.texts["test"].labels) <= 1


def test_bad_input_is_one_line(monkeypatch, folder):
    def refused(message, *arguments):
        result = CliRunner().invoke(app, ["bench", "accuracy", *arguments])
        assert result.exit_code != 0
        assert message in str(result.exception)

    monkeypatch.delenv("SECP_SPU_DATA", raising=False)
    refused("SECP_SPU_DATA is not set")
    monkeypatch.setenv("SECP_SPU_DATA", str(folder))
    refused("--adapted is missing: fot-adapted takes", "--methods", "fot,fot-adapted")
    refused("--methods no: must be some of probe, fine-tuning", "--methods", "no")
    refused("is no folder that secp-spu adapt wrote", "--methods", "fot-adapted", "--adapted", str(folder / "model"))
    other = folder / "other"
    other.mkdir()
    for content in ('{"secp_spu": 1}', "[]"):
        (other / "config.json").write_text(content)
        refused("is no folder that secp-spu adapt wrote", "--methods", "fot-adapted", "--adapted", str(other))
    refused("fot-transfer starts from", "--methods", "fot-transfer", "--tasks", "kitchen_reviews")
