"""The configurations to start from load, and their comments are the descriptions of the keys."""

import json

import pytest

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import find_key, load_config, make_template, render_template
from secp_spu.config.templates import Off
from secp_spu.errors import ConfigError

NAMES = ["demo", "own-model", "cluster"]


def _write(name, folder):
    path = folder / "config.yaml"
    path.write_text(render_template(make_template(name)), encoding="utf-8")
    return path


def _fill_in(folder, *parties):
    """Make the files that the templates name."""
    names = ["path/to/model", "path/to/pool.jsonl", "path/to/test.jsonl", "tls/ca.pem"]
    for name in [*names, *(f"tls/{party}.{kind}" for party in parties for kind in ("pem", "key"))]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_demo_is_the_shipped_one(tmp_path):
    assert load_config(_write("demo", tmp_path)) == load_config(DEMO_CONFIG)


def test_an_own_model_loads_once_its_files_are_there(tmp_path):
    path = _write("own-model", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.folder: .*/path/to/model does not exist"):
        load_config(path)
    _fill_in(tmp_path)
    assert load_config(path).task.pool == tmp_path / "path" / "to" / "pool.jsonl"


@pytest.mark.parametrize("party", [None, "alice", "bob", "carol"])
def test_a_cluster_loads_once_its_files_are_there(tmp_path, party):
    path = _write("cluster", tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(path, party=party)
    _fill_in(tmp_path, "alice", "bob", "carol")
    config = load_config(path, party=party)
    assert config.cluster.everyone == ["alice", "bob", "carol"]
    config.cluster.refuse_plain_text()


@pytest.mark.parametrize(("name", "number"), [("demo", 0), ("own-model", 3), ("cluster", 6)])
def test_values_that_are_in_comments_can_be_set(tmp_path, name, number):
    path, template = _write(name, tmp_path), make_template(name)
    _fill_in(tmp_path, "alice", "bob", "carol")
    off = {key: value.value for key, value in _flat(template.content).items() if isinstance(value, Off)}
    assert len(off) == number
    for key, value in off.items():
        assert f"\n  # {key.rpartition('.')[2]}: " in render_template(template)
        load_config(path, [f"{key}={json.dumps(value)}"])


@pytest.mark.parametrize("name", NAMES)
def test_comments_are_the_first_sentences_of_the_descriptions(name):
    template = make_template(name)
    comments = " ".join(line.strip("# ") for line in render_template(template).splitlines())
    for key in [*template.content, *_flat(template.content)]:
        assert find_key(key)[0].summary in comments, key


@pytest.mark.parametrize("name", ["own-model", "cluster"])
def test_every_placeholder_is_explained(name):
    template = make_template(name)
    paths = {key for key, value in _flat(template.content).items() if "path/to" in str(value)}
    others = {"task.template", "task.labels"} | ({"cluster.addresses", "cluster.tls"} if name == "cluster" else set())
    assert set(template.fill_in) == paths | others
    rendered = " ".join(line.strip("# ") for line in render_template(template).splitlines())
    assert all(note in rendered for note in template.fill_in.values())


def _flat(content):
    """The keys of a template's sections, by dotted name."""
    sections = {name: keys for name, keys in content.items() if isinstance(keys, dict)}
    return {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()}
