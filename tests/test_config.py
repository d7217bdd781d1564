"""A configuration is one validated record: every error names the key and the mend, in one line."""

import re
from pathlib import Path

import pytest
import yaml

from secp_spu.cli import DEMO_CONFIG
from secp_spu.config import ConfigError, load_config

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def write(tmp_path):
    """A function that writes the demo's configuration with changes, and returns its path."""

    def write(**changes):
        content = yaml.safe_load(DEMO_CONFIG.read_text())
        for section in ("pool", "test"):
            content["task"][section] = str(DEMO_CONFIG.parent / content["task"][section])
        content["model"]["folder"] = str(DEMO_CONFIG.parent / content["model"]["folder"])
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (content[section] if section else content)[name] = value
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_the_demo_is_valid_and_paths_are_found_from_its_folder():
    config = load_config(DEMO_CONFIG)
    assert (config.protocol, config.parties, config.correlations) == ("aby3", 3, "joint")
    assert config.task.pool == DEMO_CONFIG.parent / "data" / "pool.jsonl"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SECP_SPU_DATA", str(tmp_path))
    for name in re.findall(r"\$\{SECP_SPU_DATA\}/(\S+)", path.read_text()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    load_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning__populaton": 8}, "tuning.populaton is no key: did you mean population?"),
        ({"colour": "red"}, "colour is no key: allowed are protocol, parties"),
        ({"tuning__population": "many"}, "tuning.population is 'many': input should be a valid integer"),
        ({"tuning__population": 1}, "tuning.population is 1: input should be greater than or equal to 4"),
        ({"tuning__sigma": 0.0}, "tuning.sigma is 0.0: input should be greater than 0"),
        ({"protocol": "cheetah"}, "protocol is 'cheetah': input should be 'aby3', 'semi2k' or 'plaintext'"),
        ({"protocol": "semi2k"}, "trusted_first_party: is false, but under semi2k the first party deals"),
        ({"parties": 2}, "parties: is 2, but aby3 runs among 3"),
        ({"task__pool": "nowhere.jsonl"}, "task.pool: .*nowhere.jsonl does not exist"),
        ({"task__pool": "${SECP_UNSET}/x"}, "task.pool: the environment variable SECP_UNSET is not set"),
        ({"model__folder": "package:no_such_package/model"}, "the Python package 'no_such_package' is not installed"),
        ({"model__folder": 3}, "model.folder: is 3, but must be a path"),
        ({"tuning__alpha": float("inf")}, "tuning.alpha is inf: input should be a finite number"),
        ({"task__labels": {"a": False, "b": "x"}}, "task.labels.a is False: .* in quotes"),
        ({"task__labels": {"one": "good"}}, "task.labels is .*at least 2 items"),
        ({"task__template": "{text}"}, "task.template: has no {mask}"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named_in_one_line(write, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(**changes))
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("protocol: aby3\n")
    with pytest.raises(ConfigError, match="model is missing"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ["- a list", "", "key: [", b"\xff\xfe"])
def test_what_is_no_configuration_is_refused(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_settings_win_over_the_file(write):
    config = load_config(write(), ["tuning.population=5", "task.truncate=true", "protocol=plaintext"])
    assert (config.tuning.population, config.task.truncate, config.protocol) == (5, True, "plaintext")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tuning.population", "write KEY=VALUE"),
        ("protocol.name=x", "protocol is no section"),
        ("protocol=[", r"protocol is '\['"),
    ],
)
def test_bad_settings_are_named(write, setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(), [setting])


def test_semi2k_is_allowed_in_words(write):
    assert load_config(write(protocol="semi2k", parties=2, trusted_first_party=True)).parties == 2


def test_the_digest_tells_runs_apart_but_lets_them_grow(write):
    path = write()
    digest = load_config(path).digest()
    assert load_config(path, ["tuning.generations=99"]).digest() == digest
    assert load_config(path, ["tuning.seed=99"]).digest() != digest
    assert load_config(path, ["task.template={text} is {mask}"]).digest() != digest
