"""`secp-spu predict` and `export` as a user calls them: outputs, exit status, one line on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from secp_spu.cli.app import DEMO_CONFIG

COMMAND = str(Path(sys.executable).parent / "secp-spu")
ABY3 = Path(__file__).parents[2] / "configs" / "cluster-aby3.yaml"
TEXTS = DEMO_CONFIG.parent / "data" / "test.jsonl"
SMALL = [
    "task.shots=2",
    "task.validation_shots=2",
    "task.test_examples=6",
    "tuning.population=4",
    "tuning.generations=1",
]


def _call(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = [f"--set={setting}" for setting in [*SMALL, "protocol=plaintext"]]
    assert _call("tune", "--config", DEMO_CONFIG, "--out", folder, "--quiet", *settings).returncode == 0
    return folder


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(TEXTS.read_text().splitlines()[:5]))
    return path


@pytest.mark.slow("`predict` from a shell under ABY3, costs and all")
def test_predict_shows_what_it_cost_and_where_the_results_are(run, texts, tmp_path):
    done = _call("predict", "--run", run, "--texts", texts, "--out", tmp_path / "new" / "out", "--set=protocol=aby3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 texts: " in done.stdout
    assert "What it cost" in done.stdout
    assert f"labels and scores in {tmp_path / 'new' / 'out'}" in done.stdout
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    lines = [json.loads(line) for line in (tmp_path / "new" / "out").read_text().splitlines()]
    assert len(lines) == 5
    for line in lines:
        assert set(line) == {"text", "label", "scores"}
        assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-6)


def test_quiet_is_quiet_and_the_same_call_again_is_refused(run, texts, tmp_path):
    arguments = ["predict", "--run", run, "--texts", texts, "--out", tmp_path / "out", "--quiet"]
    done = _call(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    before = (tmp_path / "out").read_bytes()
    again = _call(*arguments)
    assert (again.returncode, again.stderr) == (2, f"error: {tmp_path / 'out'} exists already: choose another file\n")
    assert (tmp_path / "out").read_bytes() == before


def test_export_writes_an_adapter_and_says_what_transformers_lacks(run, tmp_path):
    done = _call("export", "--run", run, "--out", tmp_path / "adapter", "--format", "peft")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert "attention fourier and activation quadratic, which transformers does not know" in done.stdout
    again = _call("export", "--run", run, "--out", tmp_path / "adapter")
    assert (again.returncode, again.stderr) == (
        2,
        f"error: {tmp_path / 'adapter'} is not empty: choose another folder\n",
    )


CLUSTER = (
    "--set=cluster={data_owner: alice, model_owner: bob, compute: [alice, bob, carol], addresses: {"
    "alice: {control: 'localhost:1', compute: 'localhost:2'}, bob: {control: 'localhost:3', compute: 'localhost:4'}, "
    "carol: {control: 'localhost:5', compute: 'localhost:6'}}}"
)


@pytest.mark.slow("`predict` refuses before it writes; a process for each")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "absent"], "absent holds no tuned prompt: give the folder that secp-spu tune wrote"),
        (["--texts", "absent"], "absent cannot be read: No such file or directory"),
        (["--set=task.max_tokens=5"], "task.max_tokens was 15, now it is 5: the prompt in"),
        (["--set=tuning.populaton=5"], "tuning.populaton is no key: did you mean tuning.population?"),
        (["--out", "/dev/null/out"], "/dev/null/out cannot be written"),
        (["--set=protocol=aby3", CLUSTER], "--party is missing: cluster.addresses name a machine for each party"),
        (["--set=protocol=aby3", CLUSTER, "--party=bob"], "--party bob: the run is alice's"),
        (["--party=alice"], "has no `cluster`"),
        (["--config", ABY3], "--party is missing: which party of"),
        (["--config", ABY3, "--party=bob"], "--run, --texts and --out are for alice alone"),
        (["--config", ABY3, "--party=alice"], "alice is the data owner, who gives --run, --texts and --out"),
        (["--config", ABY3, "--party=dave"], "'dave' is no party of configuration"),
        (["--config", DEMO_CONFIG, "--party=bob"], "has no `cluster`"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(run, texts, tmp_path, arguments, message):
    done = _call("predict", "--run", run, "--texts", texts, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_predict_lacks_is_named():
    done = _call("predict", "--run", "run", "--out", "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --texts is missing")
