"""Folders are written here in Hugging Face's layout from transformers' own models, or by `save_checkpoint`."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from random_weights import CONFIG, head_params, random_like, transformer_variables
from safetensors.numpy import load_file, save_file

from secp_spu.model import (
    Checkpoint,
    CheckpointError,
    LabelWordHead,
    Transformer,
    load_checkpoint,
    load_embeddings,
    save_checkpoint,
)
from secp_spu.protocol import fit_gelu

transformers = pytest.importorskip("transformers", reason="the second implementation is transformers'")

BATCH, TOKENS = 3, 7
TEXT_LENGTHS = np.array([7, 3, 5])
SHAPE = {
    "vocab_size": 31,
    "hidden_size": 21,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 23,
    "max_position_embeddings": 19,
    "type_vocab_size": 2,
}
RFA = replace(CONFIG, attention="rfa", features=29, feature_seed=3)
SERIES = replace(CONFIG, activation="series", series=fit_gelu(6, 4))
QUADRATIC = replace(CONFIG, activation="quadratic")

# Hidden states and logits are below 8. Some ten steps a layer and in the head, each rounding sums of 23 products to
# sqrt(23) 2**-24, make 8 * 30 * 5 * 6e-8 = 7e-5 between two implementations. A wrong GELU shows as more than 1e-3.
TOLERANCE = 1e-4


class HubModel:
    """A transformers model with random weights; its folder holds them under the names and in the layout of PyTorch."""

    def __init__(self, name: str, seed: int = 0, **settings):
        model_class = getattr(transformers, f"Flax{name}")
        self.config = model_class.config_class(**SHAPE, architectures=[name], **settings)
        self.model = model_class(self.config, _do_init=False)
        self.params = random_like(unflatten_dict(flatten_dict(self.model.params_shape_tree)), seed)

    def tensors(self) -> dict[str, np.ndarray]:
        renamed = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
        tensors = {}
        for (*path, last), array in flatten_dict(self.params).items():
            layout = array.T if last == "kernel" else array
            tensors[".".join([*path, renamed.get(last, last)])] = np.ascontiguousarray(layout)
        return tensors

    def save(self, folder, tensors=None):
        (folder / "config.json").write_text(self.config.to_json_string())
        save_file(self.tensors() if tensors is None else tensors, folder / "model.safetensors")
        return folder

    def batch(self):
        """Token ids padded with the padding id, and the padding mask."""
        mask = np.arange(TOKENS) < TEXT_LENGTHS[:, None]
        ids = np.random.default_rng(1).integers(5, SHAPE["vocab_size"], (BATCH, TOKENS))
        return np.where(mask, ids, self.config.pad_token_id), mask.astype(np.int32)

    def run(self):
        """Last hidden states and, from a masked-LM model, logits; of the tokens that are not padding."""
        ids, mask = self.batch()
        out = self.model(ids, mask, params=self.params, output_hidden_states=True)
        return out.hidden_states[-1][mask > 0], out.logits[mask > 0] if "logits" in out else None


def run_checkpoint(checkpoint, ids, mask):
    """The same of ours: the head is asked for one position after the other."""
    hidden = Transformer(checkpoint.config).apply(
        checkpoint.variables, jnp.asarray(ids), jnp.asarray(mask, jnp.float32)
    )
    if checkpoint.head is None:
        return hidden[mask > 0], None
    head = LabelWordHead(checkpoint.config, checkpoint.config.vocab_size)
    rows = hidden[mask > 0][:, None, :]
    return hidden[mask > 0], head.apply({"params": checkpoint.head}, rows, jnp.ones(rows.shape[:2]))


def assert_same_function(hub, checkpoint, tolerance=TOLERANCE):
    hidden, logits = run_checkpoint(checkpoint, *hub.batch())
    expected_hidden, expected_logits = hub.run()
    np.testing.assert_allclose(hidden, expected_hidden, rtol=0, atol=tolerance)
    assert (logits is None) == (expected_logits is None)
    if logits is not None:
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=tolerance)


@pytest.mark.slow("our layers are transformers' own; seven models compiled in Flax")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BertForMaskedLM", {"hidden_act": "gelu"}),
        ("BertForMaskedLM", {"hidden_act": "gelu_new", "tie_word_embeddings": False}),
        ("BertForMaskedLM", {"hidden_act": "relu", "layer_norm_eps": 0.1}),
        ("RobertaForMaskedLM", {"hidden_act": "gelu_pytorch_tanh"}),
        ("RobertaForMaskedLM", {"hidden_act": "relu", "pad_token_id": 3, "tie_word_embeddings": False}),
        ("BertModel", {"hidden_act": "gelu"}),
        ("RobertaModel", {"hidden_act": "gelu"}),
    ],
)
def test_models_of_transformers_compute_the_same_here(name, settings, tmp_path):
    hub = HubModel(name, **settings)
    checkpoint = load_checkpoint(hub.save(tmp_path))
    assert checkpoint.model_type in name.lower()
    assert_same_function(hub, checkpoint)


@pytest.mark.parametrize(
    "field", [{"activation": "gelu_tanh"}, {"head_activation": "gelu_tanh"}, {"position_offset": 1}]
)
def test_the_tolerance_tells_settings_apart(field, tmp_path):
    hub = HubModel("BertForMaskedLM")
    checkpoint = load_checkpoint(hub.save(tmp_path))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_function(hub, replace(checkpoint, config=replace(checkpoint.config, **field)))


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 11), (ml_dtypes.bfloat16, 8)], ids=["float16", "bfloat16"])
def test_half_precision_is_widened(dtype, bits, tmp_path):
    hub = HubModel("RobertaForMaskedLM")
    hub.save(tmp_path, {name: tensor.astype(dtype) for name, tensor in hub.tensors().items()})
    checkpoint = load_checkpoint(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves([checkpoint.variables, checkpoint.head])} == {np.dtype("float32")}
    words = checkpoint.variables["params"]["embeddings"]["word"]["embedding"]
    original = hub.params["roberta"]["embeddings"]["word_embeddings"]["embedding"]
    # Rounding to `bits` significant bits is off by half a unit in the last of them; 1e-7: float16 has subnormals.
    np.testing.assert_allclose(words, original, rtol=2.0**-bits, atol=1e-7)
    assert np.abs(words - original).max() > 0


def test_shards_are_one_checkpoint(tmp_path):
    hub = HubModel("BertForMaskedLM")
    hub.save(tmp_path)
    whole = load_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + (i % 3)}-of-00003.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    sharded = load_checkpoint(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, sharded.variables, whole.variables)
    jax.tree.map(np.testing.assert_array_equal, sharded.head, whole.head)


def test_names_of_old_checkpoints_are_understood(tmp_path):
    """bert-base-uncased still has gamma and beta, poolers, next-sentence heads and the decoder's bias twice."""
    hub = HubModel("BertForMaskedLM")
    whole = load_checkpoint(hub.save(tmp_path))
    old = {}
    for name, tensor in hub.tensors().items():
        old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    assert len([name for name in old if name.endswith("gamma")]) == 6
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].copy()
    old["bert.pooler.dense.weight"] = np.ones((21, 21), np.float32)
    old["cls.seq_relationship.weight"] = np.ones((2, 21), np.float32)
    old["bert.embeddings.position_ids"] = np.arange(19)[None]
    checkpoint = load_checkpoint(hub.save(tmp_path, old))
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, whole.variables)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.head, whole.head)


def test_a_pooler_is_no_head(tmp_path):
    hub = HubModel("BertForNextSentencePrediction")
    assert load_checkpoint(hub.save(tmp_path)).head is None


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        (CONFIG, "roberta"),
        (RFA, "roberta"),
        (replace(CONFIG, position_offset=0, activation="gelu_tanh", head_activation="gelu_tanh"), "bert"),
        (replace(RFA, position_offset=0, activation="relu", head_activation="relu"), "bert"),
        (SERIES, "roberta"),
        (replace(RFA, activation="series", series=fit_gelu(7.5, 6)), "roberta"),
        (replace(SERIES, position_offset=0, head_activation="gelu_tanh"), "bert"),
        (QUADRATIC, "roberta"),
        (replace(RFA, position_offset=0, activation="quadratic", head_activation="relu"), "bert"),
    ],
    ids=[
        *("roberta", "roberta-rfa", "bert", "bert-rfa"),
        *("roberta-series", "roberta-rfa-series", "bert-series", "roberta-quadratic", "bert-rfa-quadratic"),
    ],
)
@pytest.mark.parametrize("head", ["untied", "tied", "none"])
def test_saved_checkpoints_come_back_exactly(config, model_type, head, tmp_path):
    variables, params = transformer_variables(config), head_params(config) if head != "none" else None
    if head == "tied":
        params["decoder"]["kernel"] = variables["params"]["embeddings"]["word"]["embedding"].T
    save_checkpoint(tmp_path / "new", config, variables, params, model_type=model_type)
    checkpoint = load_checkpoint(tmp_path / "new", attention=config.attention)
    assert checkpoint.config == config
    assert checkpoint.model_type == model_type
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, variables)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.head, params)
    stored = load_file(tmp_path / "new" / "model.safetensors")
    assert (sum("decoder" in name for name in stored) == 1) == (head == "untied")


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_what_we_save(model_type, tied, tmp_path):
    """With transformers' own reading of PyTorch names, which needs no PyTorch for safetensors."""
    config = replace(CONFIG, position_offset={"bert": 0, "roberta": 2}[model_type])
    variables, params = transformer_variables(config), head_params(config)
    if tied:
        params["decoder"]["kernel"] = variables["params"]["embeddings"]["word"]["embedding"].T
    ids = {"pad": config.position_offset - 1 if model_type == "roberta" else 0, "mask": 4}
    save_checkpoint(tmp_path, config, variables, params, model_type=model_type, special_ids=ids)

    hub = HubModel.__new__(HubModel)
    hub.model = transformers.FlaxAutoModelForMaskedLM.from_pretrained(tmp_path)
    hub.config, hub.params = hub.model.config, hub.model.params
    assert (hub.config.mask_token_id, hub.config.tie_word_embeddings) == (4, tied)
    assert_same_function(hub, load_checkpoint(tmp_path))


def test_saved_half_precision_is_half_as_large(tmp_path):
    variables, params = transformer_variables(RFA), head_params(RFA)
    for float16, name in ((False, "whole"), (True, "half")):
        save_checkpoint(tmp_path / name, RFA, variables, params, float16=float16)
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert sum(t.nbytes for t in whole.values()) == 2 * sum(t.nbytes for t in half.values())
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), variables["params"])
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / "half").variables["params"], expected)


def test_the_tokenizer_is_copied(tmp_path):
    source = tmp_path / "trained.json"
    source.write_text('{"version": "1.0"}')
    save_checkpoint(tmp_path / "new", CONFIG, transformer_variables(CONFIG), tokenizer_json=source)
    assert (tmp_path / "new" / "tokenizer.json").read_text() == source.read_text()


@pytest.mark.parametrize("name", ["BertForMaskedLM", "RobertaModel"])
def test_embeddings_alone_are_those_of_the_whole_model(name, tmp_path):
    hub = HubModel(name)
    checkpoint = load_checkpoint(hub.save(tmp_path))
    config, params = load_embeddings(tmp_path)
    assert config == checkpoint.config
    jax.tree.map(np.testing.assert_array_equal, params, checkpoint.variables["params"]["embeddings"])


def test_embeddings_need_no_other_tensor(tmp_path):
    """The model owner may hand out a file with the embeddings alone."""
    hub = HubModel("RobertaModel")
    tensors = {name: tensor for name, tensor in hub.tensors().items() if name.startswith("embeddings.")}
    _, params = load_embeddings(hub.save(tmp_path, tensors))
    np.testing.assert_array_equal(params["word"]["embedding"], hub.params["embeddings"]["word_embeddings"]["embedding"])


# Activations


def stored(config, folder) -> Checkpoint:
    model_type = "roberta" if config.position_offset else "bert"
    save_checkpoint(folder, config, transformer_variables(config), head_params(config), model_type=model_type)
    return load_checkpoint(folder)


def test_config_json_says_which_activation_a_checkpoint_was_adapted_to(tmp_path):
    stored(SERIES, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["hidden_act"] == "gelu"
    extras = {"attention": "softmax", "activation": "series", "activation_range": 6.0, "activation_terms": 4}
    assert content["secp_spu"] == extras
    stored(QUADRATIC, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["secp_spu"]["activation"] == "quadratic"
    names = {name for name in load_file(tmp_path / "model.safetensors") if ".activation." in name}
    assert len(names) == 3 * CONFIG.layers
    assert "roberta.encoder.layer.1.intermediate.activation.scale" in names


@pytest.mark.parametrize(
    ("kind", "head"),
    [("gelu", "gelu"), ("gelu_tanh", "gelu_tanh"), ("series", "gelu_tanh")],
)
@pytest.mark.parametrize("own", ["gelu", "gelu_tanh"])
def test_what_is_gelu_may_stand_for_gelu(own, kind, head, tmp_path):
    config = replace(CONFIG, activation=own, head_activation=own, position_offset=0)
    checkpoint = stored(config, tmp_path)
    other = checkpoint.with_activation(kind, limit=8 if kind == "series" else None)
    series = fit_gelu(8, 5) if kind == "series" else None
    assert other.config == replace(config, activation=kind, series=series, head_activation=head)
    jax.tree.map(np.testing.assert_array_equal, other.variables, checkpoint.variables)
    ids, mask = HubModel("BertForMaskedLM").batch()
    hidden, logits = run_checkpoint(checkpoint, ids, mask)
    found, found_logits = run_checkpoint(other, ids, mask)
    # Off by 2.1e-3 at each of 23 neurons of weights of 1/5 or so, before norms of gains near one: five times that.
    np.testing.assert_allclose(found, hidden, atol=0.02)
    np.testing.assert_allclose(found_logits, logits, atol=0.05)


@pytest.mark.parametrize(
    ("own", "kind", "message"),
    [
        (
            replace(CONFIG, activation="relu"),
            "gelu",
            "activation relu, asked for is gelu: adapt .*force_activation",
        ),
        (CONFIG, "relu", "has activation gelu, asked for is relu"),
        (SERIES, "gelu", r"has activation series of 4 terms for \|x\| <= 6, asked for is gelu"),
        (QUADRATIC, "gelu_tanh", "has activation quadratic, asked for is gelu_tanh"),
    ],
    ids=["relu-gelu", "gelu-relu", "series-gelu", "quadratic-gelu_tanh"],
)
def test_an_activation_that_a_checkpoint_was_not_adapted_to_has_to_be_forced(own, kind, message, tmp_path):
    checkpoint = replace(stored(replace(own, activation="gelu", series=None), tmp_path), config=own)
    if own.activation == "quadratic":
        checkpoint = stored(own, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.with_activation(kind)
    forced = checkpoint.with_activation(kind, force=True)
    assert (forced.config.activation, forced.config.series) == (kind, None)
    expected = jax.eval_shape(Transformer(forced.config).init, jax.random.key(0), *HubModel("BertForMaskedLM").batch())
    assert jax.tree.map(np.shape, forced.variables["params"]) == jax.tree.map(np.shape, expected["params"])


def test_a_checkpoint_takes_its_own_activation(tmp_path):
    for config in (CONFIG, SERIES, QUADRATIC):
        checkpoint = stored(config, tmp_path)
        same = checkpoint.with_activation(config.activation)
        assert (same.config.activation, same.config.series) == (config.activation, config.series)
        jax.tree.map(np.testing.assert_array_equal, same.variables, checkpoint.variables)


def test_a_series_needs_a_range_and_keeps_the_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no range for activation series: set model.activation_range"):
        stored(CONFIG, tmp_path).with_activation("series")
    with pytest.raises(
        CheckpointError, match=r"has activation quadratic, asked for is series: adapt .*force_activation"
    ):
        stored(QUADRATIC, tmp_path).with_activation("series")
    checkpoint = stored(SERIES, tmp_path)
    with pytest.raises(CheckpointError, match=r"series of 4 terms .* <= 6, asked for is series of 4 terms .* <= 9"):
        checkpoint.with_activation("series", limit=9)
    with pytest.raises(CheckpointError, match=r"series of 4 terms .* <= 6, asked for is series of 6 terms .* <= 6"):
        checkpoint.with_activation("series", terms=6)
    assert checkpoint.with_activation("series", limit=9, force=True).config.series == fit_gelu(9, 4)


@pytest.mark.parametrize("force", [False, True])
def test_a_quadratic_needs_weights_of_its_own(force, tmp_path):
    with pytest.raises(CheckpointError, match="asked for is quadratic, which has weights of its own: adapt the"):
        stored(CONFIG, tmp_path).with_activation("quadratic", force=force)
