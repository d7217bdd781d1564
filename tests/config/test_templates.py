"""The configurations to start from load, and their comments are the descriptions of the keys."""

import re

import pytest
import yaml

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import find_key, load_config, make_template, render_template
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


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_comments_loads_too(tmp_path, name):
    """Each value that a template shows in a comment is one that the key takes, alone."""
    path, content = _write(name, tmp_path), render_template(make_template(name))
    _fill_in(tmp_path, "alice", "bob", "carol")
    off = [match for match in re.findall(r"^( *)# (\w+: .+)$", content, re.MULTILINE) if _is_key(content, match)]
    assert len(off) == {"demo": 0, "own-model": 3, "cluster": 6}[name]
    for indent, line in off:
        shown = content.replace(f"{indent}# {line}\n", f"{indent}{line}\n")
        path.write_text(shown.replace("gelu_tanh", "checkpoint"), encoding="utf-8")
        load_config(path)


def _is_key(content, match):
    """Whether a comment is a key that is off: it follows the first sentence of the key's own description."""
    names = {"activation": "model", "embedding": "model", "test_examples": "task", "initial_prompt": "tuning"}
    section = names | {"limits": "cluster", "log": "cluster"}
    key = match[1].partition(":")[0]
    return key in section and f"# {find_key(f'{section[key]}.{key}')[0].summary}\n" in content


@pytest.mark.parametrize("name", NAMES)
def test_comments_are_the_first_sentences_of_the_descriptions(name):
    text = " ".join(line.strip("# ") for line in render_template(make_template(name)).splitlines())
    content = yaml.safe_load(render_template(make_template(name)))
    for section, value in content.items():
        keys = [section, *(f"{section}.{key}" for key in value)] if isinstance(value, dict) else [section]
        for key in keys:
            assert find_key(key)[0].summary in text, key


@pytest.mark.parametrize("name", NAMES)
def test_every_placeholder_is_explained(name):
    template = make_template(name)
    values = yaml.safe_load(render_template(template))
    for section in ("model", "task"):
        for key, value in values[section].items():
            assert (f"{section}.{key}" in template.fill_in) == (
                key in ("template", "labels") or "path/to" in str(value)
            ) or name == "demo"
