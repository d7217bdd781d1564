"""The commands as a user calls them: exit status, one line on bad input, outputs, Ctrl-C, nothing lost."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import secp_spu.__main__
import secp_spu.cli
from secp_spu.cli.app import DEMO_CONFIG, main
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.tuning.programs import audit_config

CONFIGS = Path(__file__).parents[2] / "configs"
ABY3 = CONFIGS / "cluster-aby3.yaml"
SIMULATION = CONFIGS / "simulation.yaml"
COMMAND = [str(Path(sys.executable).parent / "secp-spu")]
SMALL = [
    f"--set={setting}"
    for setting in (
        "task.shots=2",
        "task.validation_shots=2",
        "task.test_examples=6",
        "tuning.population=4",
        "tuning.generations=2",
    )
]
PLAINTEXT = ["--set=protocol=plaintext"]


def _call(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def _tune(out, *more):
    return _call("tune", "--config", DEMO_CONFIG, "--out", out, *SMALL, *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run in plaintext; a test that may change it takes a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert _tune(folder, *PLAINTEXT).returncode == 0
    return folder


@pytest.mark.slow("`tune` runs ABY3 from a shell with nothing on stderr; a run under MPC")
def test_tune_writes_its_outputs_and_says_where(tmp_path):
    done = _tune(tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "untuned prompt: accuracy" in done.stdout
    assert "generation   2:" in done.stdout
    assert f"outputs in {tmp_path / 'run'}" in done.stdout
    names = {"checkpoint.json", "config.yaml", "costs.png", "loss.png", "prompt.safetensors", "report.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


@pytest.mark.slow("--quiet holds all the way through a run; a command's whole run")
def test_quiet_is_quiet(tmp_path):
    done = _tune(tmp_path / "run", *PLAINTEXT, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "run" / "report.json").read_text())["protocol"] == "plaintext"


@pytest.mark.slow("no bad value ends in a traceback; a process for each")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=tuning.populaton=4"], "tuning.populaton is no key: did you mean tuning.population?"),
        (["--set=tuning.population=four"], "tuning.population is 'four'"),
        (["--set=task.pool=absent.jsonl"], "absent.jsonl does not exist"),
        (["--set=protocol=spdz"], "protocol is 'spdz'"),
        (["--set=tuning.alpha=1e-3"], "tuning.alpha is '1e-3', which is text to YAML: write 1.0e-03"),
        (["--set=tuning.alpha=large"], "tuning.alpha is 'large': input should be a valid number"),
        (["--set=task.labels={positive: good, negative: ' '}"], "task.labels: has 'negative': ' '"),
        (["--set=task.labels={'': good, negative: bad}"], "task.labels: has '': 'good'"),
        (["--set=protocol=semi2k", "--set=parties=2"], "trusted_first_party: is false"),
        (["--set=task.max_tokens=5"], "exceeds task.max_tokens (5)"),
        (["--set=task.shots=1000"], "task.shots + task.validation_shots need"),
        (["--set=task.labels={positive: good, other: bad}"], "but task.labels has only positive, other"),
        (["--set=task.labels={positive: incomprehensible, negative: bad}"], "a label word must be one"),
        (["--resume"], "no run to resume"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, arguments, message):
    done = _tune(tmp_path / "run", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "run").glob("*.png"))


@pytest.mark.slow("no lock or file is left by a refusal; two processes")
def test_a_run_that_failed_on_its_input_leaves_the_folder_free(tmp_path):
    assert _tune(tmp_path / "run", "--set=task.shots=1000").returncode == 2
    assert _tune(tmp_path / "run", *PLAINTEXT).returncode == 0


def test_weights_with_nan_are_refused_by_tensor(tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    source, folder = DEMO_CONFIG.parent / "model", tmp_path / "model"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = dict(load_file(folder / "model.safetensors"))
    name = sorted(tensors)[-1]
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    done = _tune(tmp_path / "run", f"--set=model.folder={folder}")
    assert done.returncode == 2
    assert name in done.stderr


@pytest.mark.slow("`tune` overwrites no other run; two processes on one folder")
def test_another_runs_folder_is_left_as_it_is(finished):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    for arguments, message in (([], "holds this run already"), (["--set=tuning.seed=5"], "holds another run already")):
        done = _tune(finished, *PLAINTEXT, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.slow("a second --resume changes no byte and tells the same; two processes")
def test_a_finished_run_is_resumed_at_no_cost(tmp_path):
    first = _call("demo", "--out", tmp_path / "run", *SMALL, *PLAINTEXT)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    done = _call("demo", "--out", tmp_path / "run", *SMALL, *PLAINTEXT, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("this run has finished before")
    assert first.stdout.endswith(done.stdout.partition("\n")[2])
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.slow("outputs follow from the checkpoint alone; a process")
def test_what_a_finished_run_lost_is_made_again(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    prompt = (tmp_path / "run" / "prompt.safetensors").read_bytes()
    (tmp_path / "run" / "prompt.safetensors").unlink()
    assert _tune(tmp_path / "run", *PLAINTEXT, "--resume").returncode == 0
    assert (tmp_path / "run" / "prompt.safetensors").read_bytes() == prompt


@pytest.mark.slow("--resume sees the number asked for; two processes")
def test_a_run_is_resumed_with_more_generations_and_not_with_fewer(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    fewer = _tune(tmp_path / "run", *PLAINTEXT, "--resume", "--set=tuning.generations=1")
    assert fewer.returncode == 2
    assert "tuning.generations: is 1, but the run in" in fewer.stderr
    more = _tune(tmp_path / "run", *PLAINTEXT, "--resume", "--set=tuning.generations=3")
    assert more.returncode == 0, more.stderr
    assert "after 3 generations" in more.stdout


def test_the_version_is_told():
    done = _call("--version")
    assert (done.returncode, done.stdout) == (0, f"secp-spu {version('secp-spu')}\n")


def test_ctrl_c_while_importing_is_one_line(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "secp_spu.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "secp_spu.cli.app")
    monkeypatch.delattr(secp_spu.cli, "app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        secp_spu.__main__.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: interrupted before anything began\n"


@pytest.mark.slow("a real SIGINT amid a pass under MPC; two processes")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    folder = tmp_path / "run"
    arguments = ["tune", "--config", str(DEMO_CONFIG), "--out", str(folder), *SMALL, "--set=tuning.generations=500"]
    running = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("generation   1"):
            break
    time.sleep(0.5)  # somewhere inside the second generation
    os.kill(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert errors.splitlines()[-1].startswith("error: interrupted after generation")
    done = _tune(folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert "accuracy on unseen texts" in done.stdout


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (ABY3, ["--party=dave"], f"'dave' is no party of configuration {ABY3}: its parties are alice, bob, carol"),
        (
            ABY3,
            ["--party=Alice", "--out=run"],
            f"'Alice' is no party of configuration {ABY3}: its parties are alice, bob, carol",
        ),
        (ABY3, ["--party=alice"], "--out is missing: alice is the data owner"),
        (ABY3, ["--party=alice", "--resume"], "--out is missing: alice is the data owner"),
        (ABY3, ["--party=alice", "--resume", "--out=run"], "run holds no run to resume"),
        (ABY3, ["--party=bob", "--out=run"], "--out and --resume are for alice alone"),
        (ABY3, ["--party=carol", "--resume"], "--out and --resume are for alice alone"),
        (ABY3, ["--party=bob", "--set=model.folder=absent"], "model.folder: "),
        (
            DEMO_CONFIG,
            ["--party=alice", "--out=run"],
            "--party alice: .* has no `cluster`",
        ),
        (SIMULATION, ["--party=alice", "--out=run"], "cluster.addresses are missing"),
        (SIMULATION, ["--party=bob"], "cluster.addresses are missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_party_is_refused_before_anything_starts(refusal, tmp_path, config, arguments, message):
    assert re.match(f"error: .*{message}", refusal("party", "--config", config, *arguments))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def refusal(monkeypatch, capsys, tmp_path):
    """A function that calls the command in this process, in an empty folder, and returns its one line of refusal.

    SecretFlow cannot be imported, so nothing is started should a refusal fail to come.
    """

    def refusal(*arguments):
        monkeypatch.setattr(sys, "argv", ["secp-spu", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        errors = capsys.readouterr().err
        assert ended.value.code == 2, errors
        assert len(errors.splitlines()) == 1
        return errors.strip()

    monkeypatch.setitem(sys.modules, "secp_spu.runtime.secretflow.runtime", None)
    monkeypatch.chdir(tmp_path)
    return refusal


def test_a_party_that_is_none_is_told_so_and_not_of_its_certificates(refusal):
    tls = f"--set=cluster.tls={{ca: {DEMO_CONFIG}, certificate: 'absent/{{party}}.pem', key: {DEMO_CONFIG}}}"
    assert "'dave' is no party of" in refusal("party", "--config", ABY3, "--party=dave", tls)


def test_a_cluster_of_machines_is_not_started_by_one_command(refusal, tmp_path):
    message = refusal("tune", "--config", ABY3, "--out=run")
    assert "cluster.addresses" in message
    assert message.endswith("start each with secp-spu party")
    assert not list(tmp_path.iterdir())


def test_a_cluster_needs_secretflow(refusal, tmp_path):
    for arguments in (["tune", "--config", SIMULATION, "--out=run"], ["party", "--config", ABY3, "--party=bob"]):
        assert "cannot be imported, and `cluster:` needs SecretFlow: see 'Installing'" in refusal(*arguments)
    assert not list(tmp_path.iterdir())


def test_embeddings_are_all_that_a_data_owner_gets(tmp_path):
    from safetensors.numpy import load_file

    source = DEMO_CONFIG.parent / "model"
    done = _call("embeddings", "--model", source, "--out", tmp_path / "given")
    assert (done.returncode, done.stderr) == (0, "")
    names = {"config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "given").iterdir()} == names
    given, kept = (load_file(folder / "model.safetensors") for folder in (tmp_path / "given", source))
    assert given
    assert all("embeddings" in name for name in given)
    assert given.keys() < kept.keys()
    for name, tensor in given.items():
        assert (tensor == kept[name]).all()
    again = _call("embeddings", "--model", source, "--out", tmp_path / "given")
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert len(again.stderr.splitlines()) == 1


def test_there_is_nothing_to_audit_in_plaintext(refusal):
    assert "protocol: is plaintext, where nothing is masked" in refusal("audit", "--config", DEMO_CONFIG, *PLAINTEXT)


@pytest.mark.slow("two processes compile the same code, which parties of a cluster have to; compiles afresh")
def test_audit_lists_and_writes_the_proofs_with_digests_of_what_is_executed(tmp_path, monkeypatch):
    monkeypatch.delenv("SECP_SPU_TEST_PROGRAMS")  # so that it compiles for itself, and does not read what is shared
    done = _call("audit", "--config", DEMO_CONFIG, *SMALL, "--json", tmp_path / "proofs.json")
    assert done.returncode == 0, done.stderr
    for word in ("assemble", "layer", "head", "mask", "opens to the data owner alone: ", "logits and no gradient"):
        assert word in done.stdout
    assert "combine" not in done.stdout, "ABY3's parties make correlations without a program"
    assert f"proofs in {tmp_path}/proofs.json" in done.stdout.replace("\n", " ")
    written = json.loads((tmp_path / "proofs.json").read_text())
    programs = audit_config(load_config(DEMO_CONFIG, [s.removeprefix("--set=") for s in SMALL])).programs
    assert [p["sha256"] for p in written["programs"]] == [hashlib.sha256(p.code).hexdigest() for p in programs]
    assert written["openings"] == sum(len(p["openings"]) for p in written["programs"]) == 6
    assert {o["mask"] for p in written["programs"] for o in p["openings"]} == {
        f"1.attention.{name}.mask" for name in ("features", "divisor")
    }
    assert written["operations"]["pphlo.custom_call @spu.reveal"] == 6
    assert "v - t" in written["covers"]
    assert "do not follow the protocol" in written["does_not_cover"]
    assert written["versions"]["spu"] == version("spu")
    assert written["opened_to_the_data_owner"]["gradients"] == 0 < written["opened_to_the_data_owner"]["logits"]


@pytest.mark.slow("--show marks real compiled code; compiles it in processes")
def test_audit_shows_a_program_with_its_openings_marked(refusal):
    done = _call("audit", "--config", DEMO_CONFIG, *SMALL, "--show", "layer")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    marked = [line for line in lines if line.startswith("> ")]
    assert len(marked) == 6 == 2 * sum(line.startswith("// layer, shape ") for line in lines)
    assert all("spu.reveal" in line and "// opens value - 1.attention." in line for line in marked)
    assert "there is no such program; there are join_biases, assemble, token_shares, layer, head" in refusal(
        "audit", "--config", DEMO_CONFIG, *SMALL, "--show", "nothing"
    )


def test_audit_refuses_a_place_for_the_proofs_that_it_cannot_write(refusal, tmp_path):
    assert f"{tmp_path} exists already" in refusal("audit", "--config", DEMO_CONFIG, "--json", tmp_path)
    (tmp_path / "file").write_text("texts")
    assert "exists already" in refusal("audit", "--config", DEMO_CONFIG, "--json", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "texts"
    assert "is a file" in refusal("audit", "--config", DEMO_CONFIG, "--json", tmp_path / "file" / "proofs.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "--confg", "x"], "No such option: --confg"),
        (["tune"], "Missing option '--config': see secp-spu tune --help"),
        (["tume"], "No such command 'tume'"),
        (["init", "foo"], "'foo' is not one of 'demo', 'own-model', 'cluster'"),
        (["adapt", "--model=x", "--corpus=y", "--out=z", "--activation=relu"], "--activation relu: .*series or quad"),
        (["demo", "--set=tuning.population=eight"], "--set tuning.population=eight: tuning.population is 'eight'"),
    ],
)
def test_a_command_line_that_is_not_understood_gets_one_line(refusal, arguments, message):
    assert re.search(message, refusal(*arguments))


def test_help_is_there():
    done = _call("--help")
    assert done.returncode == 0
    for command in ("demo", "tune", "predict", "export", "audit", "party", "embeddings"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "`out` runs/x holds an adaptation already: go on with `resume`",
            "--out runs/x holds an adaptation already: go on with --resume",
        ),
        ("lower `batch_tokens`", "lower --batch-tokens"),
        ("go on with `tune(resume=True)`", "go on with secp-spu tune --resume"),
        ("the line has no `label`", "the line has no `label`"),
    ],
)
def test_a_message_names_options_where_the_package_names_arguments(message, shown, monkeypatch, capsys):
    def refuse(**_):
        raise ConfigError(message)

    monkeypatch.setattr(secp_spu.cli.app, "app", refuse)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {shown}\n"


def test_messages_of_the_package_name_no_options():
    """Only the command line knows them: `secp_spu.cli.terminal.with_options`."""
    package = Path(secp_spu.cli.__file__).parent.parent
    for folder in ("adaptation", "inference", "model", "network", "protocol", "runtime", "tuning"):
        for path in (package / folder).rglob("*.py"):
            assert not re.search(r'"[^"\n]*--[a-z]', path.read_text()), path
