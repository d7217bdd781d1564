"""What parties compare: each difference ends all of them with a line that names it and two parties."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.model import CheckpointError, save_embeddings
from secp_spu.tuning.agreement import PACKAGES, facts_of, require_agreement

CONFIG = Path("configs/cluster-aby3.yaml")
PARTIES = ("alice", "bob", "carol")
MODEL = load_config(CONFIG).model.folder


@pytest.fixture
def given(tmp_path):
    """What alice has of bob's model."""
    save_embeddings(MODEL, tmp_path / "given")
    return tmp_path / "given"


def _facts(given, *settings, purpose="tuning", **own):
    """Facts of all parties, each with its own files, sent as JSON."""
    paths = {
        "alice": [f"model.folder={given}"],
        "bob": ["task.pool=none", "task.test=none"],
        "carol": ["task.pool=none", "task.test=none", "model.folder=none"],
    }
    configs = {p: load_config(CONFIG, [*settings, *paths[p], *own.get(p, ())], party=p) for p in PARTIES}
    return {p: json.loads(json.dumps(facts_of(config, p, purpose))) for p, config in configs.items()}


def _refusals(facts):
    """What each party says."""
    said = {}
    for party in PARTIES:
        with pytest.raises(ConfigError) as error:
            require_agreement(facts, party)
        assert "\n" not in str(error.value)
        said[party] = str(error.value)
    return said


@pytest.mark.parametrize("settings", [[], ["model.embedding=private"]])
def test_parties_with_their_own_files_agree(given, settings):
    facts = _facts(given, *settings)
    for party in PARTIES:
        require_agreement(facts, party)
    assert facts["carol"]["contents"] == {}
    assert {name for name in facts["alice"]["contents"] if "embedding" in name} == (
        set() if settings else {f"embedding table `{name}`" for name in ("word", "position", "type", "norm")}
    )
    assert facts["alice"]["contents"] == facts["bob"]["contents"]
    assert set(facts["carol"]["versions"]) == {"Python", "the table of cosines", *PACKAGES}


def test_facts_hold_nothing_of_the_data_owner_and_no_path(given):
    facts = repr(_facts(given, alice=["tuning.seed=123456789", "tuning.initial_prompt={words: unheard}"]))
    for secret in (str(given), str(MODEL), "pool.jsonl", "123456789", "unheard", "limits"):
        assert secret not in facts


def _reversed(table):
    return np.ascontiguousarray(table[::-1])


@pytest.mark.parametrize(
    ("tensor", "change", "name"),
    [
        ("word_embeddings.weight", _reversed, "word"),
        ("word_embeddings.weight", lambda table: 3 * table, "word"),
        ("position_embeddings.weight", _reversed, "position"),
        ("token_type_embeddings.weight", lambda table: table + 1, "type"),
        ("LayerNorm.bias", lambda table: table + 1, "norm"),
    ],
)
def test_a_table_that_differs_is_named(given, tensor, change, name):
    path = given / "model.safetensors"
    tensors = load_file(path)
    place = next(key for key in tensors if key.endswith(tensor))
    tensors[place] = change(tensors[place])
    save_file(tensors, path)
    for said in _refusals(_facts(given)).values():
        assert f"model folders differ: embedding table `{name}` is '" in said
        assert re.search(r" at (alice|bob), but '\w{64}' at (alice|bob); give the data owner what", said)


def test_a_tokenizer_and_a_configuration_of_the_model_that_differ_are_named(given):
    path = given / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["good"] = 0
    path.write_text(json.dumps(content))
    assert "tokenizer.json is" in _refusals(_facts(given))["carol"]
    path = given / "config.json"
    path.write_text(path.read_text().replace('"feature_seed": 0', '"feature_seed": 1'))
    for said in _refusals(_facts(given)).values():
        assert "feature_seed of config.json is" in said
        assert "(and so do tokenizer.json)" in said


def test_with_private_embedding_no_table_is_compared(given):
    (given / "model.safetensors").unlink()
    facts = _facts(given, "model.embedding=private")
    require_agreement(facts, "alice")
    with pytest.raises(CheckpointError, match="holds neither"):
        _facts(given)


def test_configurations_purposes_and_versions_that_differ_are_named(given):
    said = _refusals(_facts(given, bob=["tuning.population=7"]))
    assert said["alice"] == (
        "the parties' configurations differ: tuning.population is 6 at alice, but 7 at bob; give all parties the same"
    )
    assert "tuning.population is 7 at bob, but 6 at alice" in said["bob"]
    assert "tuning.population is 6 at carol, but 7 at bob" in said["carol"]

    facts = _facts(given)
    facts["bob"] |= {"configuration": facts_of(load_config(CONFIG), "bob", "prediction")["configuration"]}
    assert "what is to be done is 'tuning' at alice, but 'prediction' at bob" in _refusals(facts)["alice"]

    for name in ("Python", *PACKAGES):
        facts = _facts(given)
        facts["carol"]["versions"][name] = "0.0.0"
        assert f"the version of {name} is '0.0.0' at carol, but" in _refusals(facts)["carol"]
        assert f"the version of {name} is" in _refusals(facts)["alice"]


def test_limits_logs_and_certificates_are_each_partys_own(given):
    limits = ["cluster.limits={texts_a_day: 10, file: x.json}", "cluster.log={party}.jsonl"]
    facts = _facts(given, bob=limits)
    require_agreement(facts, "alice")
    assert "x.json" not in repr(facts)


@pytest.mark.parametrize(
    "stated",
    [None, [], "x", {}, {"configuration": [], "versions": {}, "contents": {}}, {"configuration": {}, "versions": {}}],
    ids=str,
)
def test_facts_of_another_form_are_refused(given, stated):
    facts = _facts(given) | {"bob": stated}
    with pytest.raises(ConfigError, match="^bob states no facts as this version of secp-spu does: install the same"):
        require_agreement(facts, "alice")


def test_what_another_party_states_cannot_spoil_a_message(given):
    facts = _facts(given)
    hostile = copy.deepcopy(facts)
    hostile["bob"]["configuration"] |= {"tuning.population": "\x1b[2J\nerror: x" * 1000, "a\nb\x1b" * 99: 1}
    for said in _refusals(hostile).values():
        assert len(said) < 1000
        assert said.isprintable()


def test_a_folder_without_a_tokenizer_states_none(given, tmp_path):
    """The model owner's process does not read one."""
    shutil.copytree(MODEL, tmp_path / "whole")
    (tmp_path / "whole" / "tokenizer.json").unlink()
    facts = _facts(given, bob=[f"model.folder={tmp_path / 'whole'}"])
    require_agreement(facts, "alice")
    assert "tokenizer.json" not in facts["bob"]["contents"]
