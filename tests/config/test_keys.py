"""Every key explains itself, and what explains it follows from the models."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import (
    Config,
    ListenSection,
    TlsSection,
    TuningSection,
    config_schema,
    configuration_page,
    find_key,
    key_groups,
    load_config,
    make_template,
    render_template,
    save_config,
)
from secp_spu.config.keys import section_of
from secp_spu.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), DEMO_CONFIG]
KEYS = {key.name: key for group in key_groups() for key in group.keys}


def test_all_sections_are_found():
    assert [group.name for group in key_groups()] == [
        "",
        "cluster",
        "cluster.addresses.NAME",
        "cluster.addresses.NAME.listen",
        "cluster.tls",
        "cluster.limits",
        "model",
        "task",
        "tuning",
        "tuning.initial_prompt",
    ]
    assert len(KEYS) == sum(len(group.keys) for group in key_groups())


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_every_key_has_a_description_in_whole_sentences(key):
    assert re.fullmatch(r"[A-Z`].*\.", key.description)
    assert key.description.startswith(key.summary)
    assert key.summary.endswith(".")
    assert len(key.summary) <= 120


def test_every_value_of_a_choice_is_described():
    """A new optimizer, activation or loss needs its words in the description too."""
    sections = [config_schema(), *config_schema()["$defs"].values()]
    keys = [key for section in sections for key in section["properties"].values()]
    choices = [(choice, key["description"]) for key in keys for choice in key.get("enum", [])]
    assert len(choices) == 33
    assert not [choice for choice, description in choices if f"`{choice}`" not in description]


def test_every_section_says_what_it_is():
    for group in key_groups():
        assert group.about
        assert all(re.fullmatch(r".*\.", paragraph) for paragraph in group.about)
        assert "Attributes:" not in "".join(group.about)


@pytest.mark.parametrize(
    ("name", "values", "own"),
    [
        ("protocol", "aby3, semi2k or plaintext; default aby3", False),
        ("trusted_first_party", "true or false; default false", False),
        ("model", "section; required", False),
        ("model.folder", "path; required", True),
        ("model.activation_range", "number from 2 to 32; optional", False),
        ("task.labels", "mapping of text to text, 2 or more; required", False),
        ("tuning.sigma", "number above 0 and up to 1,000,000; default 1.0", False),
        ("tuning.intrinsic_dim", "integer from 2 to 10000; optional", False),
        ("tuning.initial_prompt", "random or section; default random", True),
        ("tuning.initial_prompt.run", "path; optional", True),
        ("tuning.seed", "integer, 0 or more; optional", True),
        ("cluster.compute", "list of texts, 2 or more; required", False),
        ("cluster.addresses", "section for each party; optional", False),
        ("cluster.addresses.NAME.control", "host:port; required", False),
        ("cluster.addresses.NAME.listen.compute", "host:port; optional", True),
        ("cluster.tls.key", "path; required", True),
        ("cluster.limits.texts_a_day", "integer, 0 or more; optional", True),
        ("cluster.limits.file", "path; default ~/.local/state/secp-spu/limits.json", True),
    ],
)
def test_what_a_key_takes_is_said(name, values, own):
    assert (KEYS[name].values, KEYS[name].own) == (values, own)


def test_what_parties_agree_on_is_what_is_not_marked():
    agreed = load_config(ROOT / "configs" / "cluster-aby3.yaml").agreed()
    two_deep = {name for name, key in KEYS.items() if not key.own and len(key.place) <= 2}
    opened = {name for name, key in KEYS.items() if key.allowed == "section" and len(key.place) == 1}
    assert set(agreed) == two_deep - opened | {"cluster.tls"}
    assert set(agreed["cluster.addresses"]["bob"]) == {"control", "compute"}


@pytest.mark.parametrize(
    ("name", "key", "section"),
    [
        ("tuning.sigma", "tuning.sigma", None),
        ("tuning", "tuning", "tuning"),
        ("cluster.limits", "cluster.limits", "cluster.limits"),
        ("cluster.addresses", "cluster.addresses", "cluster.addresses.NAME"),
        ("cluster.addresses.NAME", None, "cluster.addresses.NAME"),
        ("cluster.addresses.bob", None, "cluster.addresses.NAME"),
        ("cluster.addresses.bob.control", "cluster.addresses.NAME.control", None),
        ("cluster.addresses.NAME.listen", "cluster.addresses.NAME.listen", "cluster.addresses.NAME.listen"),
    ],
)
def test_keys_and_sections_are_found(name, key, section):
    found = find_key(name)
    assert tuple(one.name if one else None for one in found) == (key, section)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tuning.sigm", "'tuning.sigm' is no key: did you mean tuning.sigma?"),
        ("sigma", "'sigma' is no key: did you mean tuning.sigma?"),
        ("Tuning.Sigma", "'Tuning.Sigma' is no key: did you mean tuning.sigma?"),
        ("ca", "'ca' is no key: did you mean cluster.tls.ca?"),
        ("task.labels.good", "'task.labels.good' is no key: did you mean task.labels?"),
        ("control", "did you mean cluster.addresses.NAME.control or cluster.addresses.NAME.listen.control?"),
        ("cluster.addresses.", "'cluster.addresses.' is no key: did you mean cluster.addresses?"),
        ("", "'' is no key: secp-spu config --explain lists all keys"),
        ("qqq", "'qqq' is no key: secp-spu config --explain lists all keys"),
        (".", "'.' is no key: secp-spu config --explain lists all keys"),
    ],
)
def test_what_is_no_key_is_refused_with_a_near_one(name, message):
    with pytest.raises(ConfigError) as error:
        find_key(name)
    assert str(error.value).endswith(message)


@pytest.mark.parametrize(
    ("place", "section"),
    [
        (("shade",), Config),
        (("tuning", "x"), TuningSection),
        (("cluster", "tls", "x"), TlsSection),
        (("cluster", "addresses", "bob", "listen", "x"), ListenSection),
        (("task", "labels", "x"), "TaskSection"),
        (("cluster", "addresses", "bob"), "ClusterSection"),
    ],
)
def test_the_section_of_a_place_is_found(place, section):
    found = section_of(place)
    assert found is section or found.__name__ == section


# The JSON schema


def _schema_errors(content):
    """What a JSON schema's validator says; without one, only the types and names of the keys are looked at."""
    if importlib.util.find_spec("jsonschema"):
        from jsonschema import Draft202012Validator

        Draft202012Validator.check_schema(config_schema())
        return [error.message for error in Draft202012Validator(config_schema()).iter_errors(content)]
    return _unknown(config_schema(), content)


def _unknown(schema, content):
    schemas = [part for part in schema.get("anyOf", [schema]) if "$ref" in part or "properties" in part]
    if not isinstance(content, dict) or not schemas:
        return []
    schema = schemas[0]
    if "$ref" in schema:
        schema = config_schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    found = [key for key in content if key not in schema["properties"]]
    found += [key for key in schema.get("required", []) if key not in content]
    for key in set(content) & set(schema["properties"]):
        found += _unknown(schema["properties"][key], content[key])
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_schema_accepts_the_shipped_configurations(path):
    assert _schema_errors(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("name", ["demo", "own-model", "cluster"])
def test_the_schema_accepts_the_templates(name):
    assert _schema_errors(yaml.safe_load(render_template(make_template(name)))) == []


def test_the_schema_accepts_what_a_run_saves(tmp_path):
    save_config(load_config(DEMO_CONFIG), tmp_path / "saved.yaml")
    assert _schema_errors(yaml.safe_load((tmp_path / "saved.yaml").read_text())) == []


@pytest.mark.parametrize("value", ["random", {"words": "a good visit"}, {"run": "runs/demo"}])
def test_the_schema_accepts_initial_prompts(value):
    content = yaml.safe_load(DEMO_CONFIG.read_text())
    content["tuning"]["initial_prompt"] = value
    assert _schema_errors(content) == []


def test_the_schema_refuses_unknown_and_missing_keys():
    content = yaml.safe_load(DEMO_CONFIG.read_text())
    assert _schema_errors({**content, "shade": "red"})
    assert _schema_errors({**content, "tuning": {**content["tuning"], "populaton": 4}})
    assert _schema_errors({key: content[key] for key in ("model", "task")})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("tuning", "initial_prompt", "best"),
        ("tuning", "population", 3),
        ("tuning", "sigma", 0),
        ("model", "head", "both"),
        ("model", "folder", 3),
        ("task", "labels", {"one": "good"}),
    ],
)
def test_the_schema_refuses_values(section, key, value):
    pytest.importorskip("jsonschema")
    content = yaml.safe_load(DEMO_CONFIG.read_text())
    content[section][key] = value
    assert _schema_errors(content)


# The page


def test_the_page_is_what_the_command_writes_now():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(), "write it again: secp-spu config --page > docs/configuration.md"


def test_the_page_has_every_key():
    page = configuration_page()
    assert all(len(line) <= 120 for line in page.splitlines())
    for group in key_groups():
        assert f"\n## {f'`{group.name}`' if group.name else 'Keys outside of the sections'}\n" in page
    assert re.findall(r"^- \*\*`(\w+)`", page, re.MULTILINE) == [key.place[-1] for key in KEYS.values()]
