"""`secp-spu config` explains keys, and `secp-spu init` writes configurations that run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from secp_spu.cli.config_commands import show_config
from secp_spu.config import config_schema, configuration_page, key_groups
from secp_spu.errors import ConfigError

COMMAND = [str(Path(sys.executable).parent / "secp-spu")]
SMALL = [
    f"--set={setting}"
    for setting in (
        "protocol=plaintext",
        "task.shots=2",
        "task.validation_shots=2",
        "task.test_examples=6",
        "tuning.population=4",
        "tuning.generations=1",
    )
]


def _call(*arguments, columns=80):
    environment = {**os.environ, "COLUMNS": str(columns)}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_all_keys_are_listed_by_section(columns):
    done = _call("config", "--explain", columns=columns)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if line != line.rstrip()]
    blocks = [block.splitlines() for block in done.stdout.split("\n\n")]
    for group, block in zip(key_groups(), blocks, strict=False):
        assert block[0] == (group.name or "outside of the sections")
        assert [line.split()[0] for line in block[1:] if line[2] != " "] == [key.place[-1] for key in group.keys]
        said = " ".join(" ".join(block).split())
        assert all(key.values in said and key.summary in said for key in group.keys)


def test_a_key_is_explained_in_full():
    done = _call("config", "--explain", "tuning.sigma")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "tuning.sigma\n"
        "  values        number above 0 and up to 1,000,000\n"
        "  default       1.0\n"
        "  in a cluster  all parties have the same value\n\n"
        "  The standard deviation of z"
    )
    assert " ".join(done.stdout.split()).endswith("see `alpha`.")


def test_a_section_is_explained_with_its_keys():
    done = _call("config", "--explain", "cluster.limits")
    assert done.returncode == 0
    about, keys = done.stdout.split("Keys of cluster.limits\n")
    assert "A day is a day of UTC." in about
    assert "  texts_a_day        integer, 0 or more; optional\n" in keys


@pytest.mark.parametrize("name", ["NAME", "alice"])
def test_a_party_may_be_called_by_its_name(name):
    done = _call("config", "--explain", f"cluster.addresses.{name}.listen")
    assert done.returncode == 0
    assert done.stdout.startswith("cluster.addresses.NAME.listen\n  values        section\n")


def test_the_schema_and_the_page_are_printed():
    schema, page = _call("config", "--schema"), _call("config", "--page")
    assert (schema.returncode, schema.stderr, page.returncode, page.stderr) == (0, "", 0, "")
    assert json.loads(schema.stdout) == config_schema()
    assert page.stdout == configuration_page()


@pytest.mark.slow("`config` refuses in words; a process for each")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "secp-spu config explains the keys of a configuration: give one of --explain [KEY], --schema and --page"),
        (["--explain", "tuning.sigm"], "'tuning.sigm' is no key: did you mean tuning.sigma?"),
        (["--explain", ""], "'' is no key: secp-spu config --explain lists all keys"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    done = _call("config", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    "options",
    [
        {"key": "tuning.sigma"},
        {"schema": True, "page": True},
        {"schema": True, "key": "tuning.sigma"},
        {"explain": True, "page": True},
    ],
    ids=" ".join,
)
def test_one_thing_is_asked_for_at_a_time(options, capsys):
    with pytest.raises(ConfigError, match="explains the keys of a configuration: give one of"):
        show_config(**options)
    assert capsys.readouterr().out == ""


# Configurations to start from


@pytest.mark.slow("the template runs as it is written; tunes under MPC")
def test_the_demo_that_init_writes_is_tuned(tmp_path):
    done = _call("init", "demo", "--out", tmp_path / "new" / "demo.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/new/demo.yaml is written\n", "")
    tuned = _call("tune", "--config", tmp_path / "new" / "demo.yaml", "--out", tmp_path / "run", *SMALL)
    assert (tuned.returncode, tuned.stderr) == (0, "")
    assert "generation   1:" in tuned.stdout


@pytest.mark.slow("a template not filled in is refused by its key; two processes a case")
@pytest.mark.parametrize("name", ["own-model", "cluster"])
def test_what_is_to_be_filled_in_is_said(tmp_path, name):
    done = _call("init", name, "--out", tmp_path / "config.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is written; fill in " in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "model.folder, task.pool, task.test" in done.stdout
    tuned = _call("tune", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert tuned.returncode == 2
    assert tuned.stderr.endswith(f"model.folder: {tmp_path}/path/to/model does not exist\n")


def test_a_file_that_is_there_is_left_as_it_is(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("mine")
    done = _call("init", "demo", "--out", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {path} exists already: choose another file\n"
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow("the system's own errors are one line; a process for each")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "exists already: choose another file"),
        ("file/config.yaml", "file is a file: choose a folder"),
        ("x" * 300, "File name too long"),
    ],
    ids=["folder", "in a file", "long"],
)
def test_where_nothing_can_be_written_is_said_in_one_line(tmp_path, out, message):
    (tmp_path / "file").touch()
    done = _call("init", "demo", "--out", tmp_path / out)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_there_is_no_other_template(tmp_path):
    done = _call("init", "mine", "--out", tmp_path / "config.yaml")
    assert done.returncode == 2
    assert "'mine' is not one of 'demo', 'own-model', 'cluster'" in " ".join(done.stderr.split()).replace(" │ │ ", " ")
    assert not list(tmp_path.iterdir())
