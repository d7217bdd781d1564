"""Whatever is wrong with a folder is said in one sentence that names the key, the tensor or the file."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from random_weights import CONFIG, head_params, transformer_variables
from safetensors.numpy import load_file, save_file

from secp_spu.model import CheckpointError, load_checkpoint, load_embeddings, save_checkpoint, save_embeddings

RFA = replace(CONFIG, attention="rfa", features=29, feature_seed=3)
QUERY = "roberta.encoder.layer.1.attention.self.query"

SOFTMAX = {"attention": "softmax"}
SERIES = SOFTMAX | {"activation": "series", "activation_range": 8, "activation_terms": 4}


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path, CONFIG, transformer_variables(CONFIG), head_params(CONFIG))
    load_checkpoint(tmp_path)
    return tmp_path


@pytest.fixture
def rfa_folder(tmp_path):
    save_checkpoint(tmp_path, RFA, transformer_variables(RFA), head_params(RFA))
    load_checkpoint(tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_tensors(folder, edit):
    """Change the dictionary of tensors in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def assert_refused(folder, message, **arguments):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder, **arguments)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "t5", r"config.json: model_type is 't5', allowed: 'bert', 'roberta', 'gpt2'"),
        ("model_type", None, "model_type is None"),
        ("hidden_act", "silu", r"hidden_act is 'silu', allowed: 'gelu', 'gelu_new', 'gelu_pytorch_tanh', 'relu'"),
        ("hidden_act", ["gelu"], r"hidden_act is \['gelu'\]"),
        ("position_embedding_type", "relative_key", "position_embedding_type is 'relative_key', allowed: 'absolute'"),
        ("is_decoder", True, "is_decoder is True, allowed: False"),
        ("add_cross_attention", True, "add_cross_attention is True, allowed: False"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings is 'yes', allowed: True, False"),
        ("hidden_size", None, "hidden_size is None, allowed are whole numbers from 1"),
        ("hidden_size", 21.0, "hidden_size is 21.0, allowed are whole numbers"),
        ("num_hidden_layers", True, "num_hidden_layers is True, allowed are whole numbers"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0, allowed are whole numbers from 1"),
        ("num_attention_heads", 5, "hidden_size is 21, allowed are multiples of num_attention_heads 5"),
        ("pad_token_id", 31, "pad_token_id is 31, allowed are whole numbers from 0 to 30"),
        ("layer_norm_eps", 0, "layer_norm_eps is 0, allowed are numbers between 0 and 1"),
        ("layer_norm_eps", "1e-5", "layer_norm_eps is '1e-5', allowed are numbers between 0 and 1"),
        ("secp_spu", "rfa", r"secp_spu is 'rfa', allowed are the keys attention, features"),
        ("secp_spu", {"feature": 3}, r"secp_spu is \{'feature': 3\}, allowed are the keys attention, features"),
        ("secp_spu", {"attention": "linear"}, "attention is 'linear', allowed: 'softmax', 'rfa'"),
        ("secp_spu", {"attention": "rfa", "feature_seed": 0}, "features is None, allowed are whole"),
        ("secp_spu", SOFTMAX | {"adapted": "by hand"}, "adapted is 'by hand', it must be an object"),
        ("secp_spu", SOFTMAX | {"adapted": None}, "adapted is None, it must be an object"),
        ("secp_spu", SOFTMAX | {"activation": "gelu"}, "activation is 'gelu', allowed: 'series', 'quadratic'"),
        (
            "secp_spu",
            SERIES | {"activation_range": None},
            "activation_range is None, allowed are numbers from 2.0",
        ),
        ("secp_spu", SERIES | {"activation_range": "8"}, "activation_range is '8', allowed are numbers from 2.0"),
        ("secp_spu", SERIES | {"activation_range": True}, "activation_range is True, allowed are numbers"),
        ("secp_spu", SERIES | {"activation_range": 1.5}, "activation_range is 1.5, allowed are numbers from 2.0"),
        (
            "secp_spu",
            SERIES | {"activation_terms": 13},
            "activation_terms is 13, allowed are whole numbers from 2",
        ),
        ("secp_spu", SERIES | {"activation_terms": 4.0}, "activation_terms is 4.0, allowed are whole numbers"),
    ],
)
def test_a_wrong_key_is_named(key, value, message, folder):
    edit_config(folder, **{key: value})
    assert_refused(folder, message)
    with pytest.raises(CheckpointError, match=message):
        load_embeddings(folder)


@pytest.mark.parametrize(("key", "value"), [("features", 0), ("feature_seed", -1)])
def test_wrong_extras_are_named(key, value, rfa_folder):
    extras = {"attention": "rfa", "features": 29, "feature_seed": 3}
    edit_config(rfa_folder, secp_spu=extras)
    load_checkpoint(rfa_folder)
    edit_config(rfa_folder, secp_spu={**extras, key: value})
    assert_refused(rfa_folder, f"{key} is {value}, allowed are whole numbers from")


def test_how_a_checkpoint_was_made_is_for_people(rfa_folder):
    extras = {"attention": "rfa", "features": 29, "feature_seed": 3}
    edit_config(rfa_folder, secp_spu={**extras, "adapted": {"steps": 3, "by": ["hand"]}})
    assert load_checkpoint(rfa_folder).config == RFA


def test_keys_that_transformers_may_leave_out_have_its_defaults(folder):
    whole = load_checkpoint(folder)
    optional = ("hidden_act", "position_embedding_type", "is_decoder", "add_cross_attention", "pad_token_id")
    edit_config(folder, **dict.fromkeys(optional))
    assert load_checkpoint(folder).config == whole.config


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{QUERY}.scale", np.ones(21, np.float32), rf"holds {QUERY}.scale and 0 more tensors"),
        ("classifier.dense.bias", np.ones(21, np.float32), r"holds classifier.dense.bias and 0 more"),
        (
            "roberta.encoder.layer.2.output.dense.bias",
            np.ones(21, np.float32),
            r"layer\.2\.output.*correct config",
        ),
        ("roberta.encoder.layer.0.attention.self.length", np.ones(3, np.float32), "holds .*self.length"),
        ("embeddings.word_embeddings.weight", np.ones((31, 21), np.float32), "holds embeddings.word_embeddings.weight"),
        (f"{QUERY}.weight", None, rf"lacks the tensor {QUERY}.weight"),
        ("roberta.embeddings.LayerNorm.bias", None, "lacks the tensor roberta.embeddings.LayerNorm.bias"),
        ("lm_head.dense.bias", None, "lacks the tensor lm_head.dense.bias"),
        ("lm_head.decoder.weight", None, "lacks the tensor lm_head.decoder.weight"),
        (f"{QUERY}.weight", np.ones((21, 22), np.float32), rf"{QUERY}.weight has shape \(21, 22\).* \(21, 21\)"),
        (f"{QUERY}.bias", np.ones((1, 21), np.float32), rf"{QUERY}.bias has shape \(1, 21\).* \(21,\)"),
        ("lm_head.bias", np.ones(30, np.float32), r"lm_head.bias has shape \(30,\).* \(31,\)"),
        (f"{QUERY}.bias", np.full(21, np.nan, np.float32), rf"{QUERY}.bias holds NaN or infinity"),
        (f"{QUERY}.bias", np.full(21, np.inf, np.float16), rf"{QUERY}.bias holds NaN or infinity"),
        (f"{QUERY}.bias", np.full(21, -np.inf, ml_dtypes.bfloat16), rf"{QUERY}.bias holds NaN or infinity"),
        (f"{QUERY}.bias", np.ones(21, np.int8), rf"{QUERY}.bias is of type I8, allowed are F32, F16, BF16"),
        (f"{QUERY}.bias", np.ones(21, ml_dtypes.float8_e4m3fn), rf"{QUERY}.bias is of type F8_E4M3, allowed are"),
    ],
)
def test_a_wrong_tensor_is_named(name, tensor, message, folder):
    edit_tensors(folder, lambda tensors: tensors.pop(name) if tensor is None else tensors.update({name: tensor}))
    assert_refused(folder, message)


def test_missing_lengths_are_named(rfa_folder):
    name = "roberta.encoder.layer.1.attention.self.length"
    edit_tensors(rfa_folder, lambda tensors: tensors.pop(name))
    assert_refused(rfa_folder, f"lacks the tensor {name}")


def test_the_other_attention_is_refused(folder):
    assert load_checkpoint(folder, attention="softmax").config.attention == "softmax"
    assert_refused(folder, "has softmax attention, asked for is rfa: adapt it first", attention="rfa")


def test_softmax_of_an_adapted_checkpoint_is_refused(rfa_folder):
    assert load_checkpoint(rfa_folder, attention="rfa").config == RFA
    assert_refused(rfa_folder, "has rfa attention, asked for is softmax: take the", attention="softmax")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    assert_refused(folder, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "has no config.json"),
        ("file", "is a file"),
        ("absent", "does not exist"),
        ("file/x", "does not exist"),
    ],
)
def test_what_is_no_model_is_told_what_one_is(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    wanted = f"{name} {message}: give a Hugging Face folder, with config.json, model.safetensors and tokenizer.json"
    assert_refused(tmp_path / name, wanted)
    with pytest.raises(CheckpointError, match=wanted):
        save_embeddings(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("content", ["{", "[]", "\xff", "[" * 10**5])
def test_a_damaged_configuration_is_named(content, folder):
    (folder / "config.json").write_text(content, encoding="latin-1")
    assert_refused(folder, r"config\.json")


def test_damaged_weights_are_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(folder, r"model\.safetensors cannot be read as safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors cannot be read"),
        ({"weight_map": {"a": 3}}, "weight_map is .* must name a file"),
        ({"metadata": {}}, "weight_map is None, it must name a file"),
    ],
)
def test_a_wrong_index_is_named(index, message, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(folder, message)


def test_embeddings_are_checked_alone(folder):
    """The data owner is told of its own tensors, and not of those it does not read."""
    edit_tensors(folder, lambda tensors: tensors.pop(f"{QUERY}.weight"))
    load_embeddings(folder)
    edit_tensors(folder, lambda tensors: tensors.pop("roberta.embeddings.LayerNorm.bias"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor roberta\.embeddings\.LayerNorm\.bias"):
        load_embeddings(folder)


def test_embeddings_are_not_saved_where_nothing_can_be_written(folder, tmp_path, monkeypatch):
    (folder / "tokenizer.json").write_text("{}")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(CheckpointError, match="file is a file: choose a folder"):
            save_embeddings(folder, out)
    with pytest.raises(CheckpointError, match="nnn cannot be written .*too long.*: choose another folder"):
        save_embeddings(folder, tmp_path / ("n" * 300))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CheckpointError, match=f"{tmp_path} cannot be written: choose another folder"):
        save_embeddings(folder, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (CONFIG, {"model_type": "t5"}, "model_type is 't5', allowed: 'bert', 'roberta', 'gpt2'"),
        (CONFIG, {"model_type": "bert"}, "config.position_offset is 2, a bert model .* has 0"),
        (CONFIG, {"special_ids": {"pad": 3}}, "config.position_offset is 2, a roberta model .* padding id 3 has 4"),
        (
            replace(CONFIG, head_activation="relu"),
            {},
            "config.head_activation is 'relu', a roberta model .* has 'gelu'",
        ),
        (
            replace(CONFIG, vocab_size=29),
            {},
            r"embeddings/word/embedding has shape \(31, 21\), config asks for \(29, 21\)",
        ),
        (replace(CONFIG, layers=3), {}, "params and config disagree about layers_2/attention_norm/bias"),
        (replace(CONFIG, layers=1), {}, "params and config disagree about layers_1/attention_norm/bias"),
        (RFA, {}, "params and config disagree about layers_0/attention/length"),
        (replace(CONFIG, activation="quadratic"), {}, "params and config disagree about layers_0/activation/offset"),
        (
            replace(CONFIG, activation="quadratic", head_activation="relu"),
            {},
            "config.head_activation is 'relu', a roberta model .* has 'gelu'",
        ),
    ],
)
def test_variables_that_do_not_fit_are_not_saved(config, arguments, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / "new", config, transformer_variables(CONFIG), **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("value", "float16"), [(np.nan, False), (np.inf, False), (65520, True)])
def test_weights_that_are_not_finite_are_not_saved(value, float16, tmp_path):
    variables = transformer_variables(CONFIG)
    variables["params"]["layers_1"]["output"]["bias"][3] = value
    with pytest.raises(CheckpointError, match="layers_1/output/bias as float.* holds NaN or infinity"):
        save_checkpoint(tmp_path / "new", CONFIG, variables, float16=float16)
    assert not (tmp_path / "new").exists()
