"""Fingerprints follow values, not files; what a data owner gets says nothing of how the model was made."""

import json
import shutil
import time

import numpy as np
import pytest
from models import RFA_MODEL
from safetensors.numpy import load_file, save_file

from secp_spu.model import (
    CheckpointError,
    describe_config,
    fingerprint_json,
    fingerprint_tables,
    fingerprint_weights,
    load_embeddings,
    load_transformer_config,
    save_embeddings,
)

MODEL = RFA_MODEL
WORDS = "roberta.embeddings.word_embeddings.weight"
RECIPE = {"steps": 10_000, "corpus": ["confidential.txt", "ab12"], "of": "our own model"}


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo's model."""
    return shutil.copytree(MODEL, tmp_path / "copy")


def _change(folder, change):
    """Change the tensors of a folder."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _reverse(tensors):
    tensors[WORDS] = np.ascontiguousarray(tensors[WORDS][::-1])


def _triple(tensors):
    tensors[WORDS] *= 3


@pytest.mark.parametrize("change", [_reverse, _triple])
def test_a_changed_table_has_another_fingerprint_and_the_others_have_not(folder, change):
    before = fingerprint_tables(folder)
    _change(folder, change)
    after = fingerprint_tables(folder)
    assert {name for name in before if before[name] != after[name]} == {"word"}
    assert before.keys() == after.keys() == {"word", "position", "type", "norm"}


def test_a_changed_layer_or_head_is_another_model(folder):
    before = fingerprint_weights(folder)
    for name in ("roberta.encoder.layer.1.output.dense.bias", "lm_head.bias"):

        def nudge(tensors, name=name):
            tensors[name][0] += 1

        _change(folder, nudge)
        after = fingerprint_weights(folder)
        assert {name for name in before if before[name] != after[name]} == {"weights"}
        assert before.keys() == after.keys() == {"word", "position", "type", "norm", "weights"}
        before = after


def test_how_values_are_stored_does_not_matter(folder):
    """Two files instead of one, float16 instead of float32, another order and layout of JSON."""

    def shorten(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16).astype(np.float32)

    _change(folder, shorten)
    before = fingerprint_weights(folder)
    tensors = {name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert fingerprint_weights(folder) == before

    tokenizer, found = folder / "tokenizer.json", fingerprint_json(folder / "tokenizer.json")
    content = json.loads(tokenizer.read_text())
    tokenizer.write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert fingerprint_json(tokenizer) == found
    content["model"]["vocab"]["good"] = 3
    tokenizer.write_text(json.dumps(content))
    assert fingerprint_json(tokenizer) != found


def test_the_owners_folders_have_the_same_tables_and_description(folder, tmp_path):
    save_embeddings(folder, tmp_path / "given")
    assert fingerprint_tables(tmp_path / "given") == fingerprint_tables(folder)
    assert fingerprint_weights(tmp_path / "given") == fingerprint_tables(folder)
    assert describe_config(tmp_path / "given") == describe_config(folder)


def test_what_is_given_away_says_nothing_of_how_the_model_was_made(folder, tmp_path):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["secp_spu"]["adapted"] = RECIPE
    content |= {"_name_or_path": "/home/bob/secret-project", "transformers_version": "4.1", "note": "internal"}
    content["pad_token_id"] = 3  # from which positions count
    path.write_text(json.dumps(content))
    save_embeddings(folder, tmp_path / "given")
    given = json.loads((tmp_path / "given" / "config.json").read_text())
    assert given["secp_spu"] == {"attention": "rfa", "features": 16, "feature_seed": 0}
    assert not {"_name_or_path", "transformers_version", "note", "architectures"} & given.keys()
    for path in (tmp_path / "given").iterdir():
        for secret in (b"confidential", b"adapted", b"our own", b"secret-project", b"internal"):
            assert secret not in path.read_bytes()
    assert load_transformer_config(tmp_path / "given") == load_transformer_config(folder)
    assert load_transformer_config(folder).position_offset == 4
    config, params = load_embeddings(tmp_path / "given")
    assert params["word"]["embedding"].shape == (config.vocab_size, config.width)


def test_the_recipe_and_the_name_do_not_make_two_models_different(folder):
    before = describe_config(folder)
    content = json.loads((folder / "config.json").read_text())
    content["secp_spu"]["adapted"] = RECIPE
    (folder / "config.json").write_text(json.dumps(content | {"_name_or_path": "elsewhere"}))
    assert describe_config(folder) == before
    content["secp_spu"]["features"] = 17
    (folder / "config.json").write_text(json.dumps(content))
    assert {key for key, value in describe_config(folder).items() if value != before[key]} == {"features"}
    assert json.loads(json.dumps(before)) == before


def test_a_folder_without_weights_has_no_fingerprints_of_any(folder):
    (folder / "model.safetensors").unlink()
    assert fingerprint_weights(folder) == {}
    with pytest.raises(CheckpointError, match="holds neither"):
        fingerprint_tables(folder)


def test_large_tables_take_little_time(folder):
    """RoBERTa-large's, 206 MB: 0.3 s on two cores, within 10 s on a busy machine; a second time nothing."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"vocab_size": 50_265, "hidden_size": 1024}
    path.write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    shapes = {"word_embeddings": (50_265, 1024), "position_embeddings": (66, 1024), "token_type_embeddings": (1, 1024)}
    tensors = {f"roberta.embeddings.{name}.weight": rng.random(s, np.float32) for name, s in shapes.items()}
    norm = {f"roberta.embeddings.LayerNorm.{name}": np.ones(1024, np.float32) for name in ("weight", "bias")}
    save_file(tensors | norm, folder / "model.safetensors")
    start = time.perf_counter()
    fingerprint_tables(folder)
    first = time.perf_counter() - start
    fingerprint_tables(folder)
    assert first < 10
    assert time.perf_counter() - start - first < 0.1
