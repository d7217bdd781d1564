"""GPT-2's decoder against transformers' own, its attention by features against loops over pairs of tokens."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from random_weights import CONFIG, head_params, random_like, transformer_variables
from safetensors.numpy import load_file, save_file

from secp_spu.model import (
    ATTENTIONS,
    FOLDED,
    CheckpointError,
    DecoderLayer,
    Embeddings,
    LabelWordHead,
    Transformer,
    fold_head,
    fold_layer,
    load_checkpoint,
    load_embeddings,
    orthogonal_frequencies,
    save_checkpoint,
    save_embeddings,
)
from secp_spu.model.attention.causal_means import causal_blocks, summarise_causal
from secp_spu.protocol import fit_gelu
from secp_spu.protocol.reciprocal import FLOOR

DECODER = replace(
    CONFIG,
    causal=True,
    position_offset=0,
    type_vocab_size=0,
    activation="gelu_tanh",
    head_activation="gelu_tanh",
)
FEATURES = {"features": 29, "feature_seed": 3}
KINDS: dict[str, dict] = {
    "softmax": {},
    "rfa": {"attention": "rfa", **FEATURES},
    "fourier": {"attention": "fourier", **FEATURES},
}
BATCH, TOKENS = 3, 7
TEXT_LENGTHS = np.array([7, 3, 5])

# As in test_checkpoint.py; the residual stream and the logits are below 8 here too.
TOLERANCE = 1e-4


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def config(request):
    return replace(DECODER, **request.param)


def variables_of(config, seed=0):
    """Random, with angles so small that the mean kernel is far from zero."""
    variables = transformer_variables(config, seed)
    if config.attention == "fourier":
        for layer in range(config.layers):
            variables["params"][f"layers_{layer}"]["attention"]["frequencies"] /= 20
    return variables


def token_ids():
    return np.random.default_rng(1).integers(0, CONFIG.vocab_size, (BATCH, TOKENS))


# Checkpoints


class HubDecoder:
    """transformers' GPT-2 with random weights; its folder holds them under the names and in the layout of PyTorch."""

    def __init__(self, **settings):
        sizes = {"vocab_size": 31, "n_embd": 21, "n_layer": 2, "n_head": 3, "n_positions": 19}
        settings = {"n_inner": 23, "architectures": ["GPT2LMHeadModel"], **settings}
        transformers = pytest.importorskip("transformers", reason="the second implementation is transformers'")
        self.config = transformers.GPT2Config(**sizes, **settings)
        self.model = transformers.FlaxGPT2LMHeadModel(self.config, _do_init=False)
        self.params = random_like(unflatten_dict(flatten_dict(self.model.params_shape_tree)), 0)

    def tensors(self):
        """Conv1D's weights are [in, out] in PyTorch and the other way about in Flax, those of lm_head the reverse."""
        renamed = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
        return {
            ".".join([*path, renamed.get(last, last)]): np.ascontiguousarray(array.T if last == "kernel" else array)
            for (*path, last), array in flatten_dict(self.params).items()
        }

    def save(self, folder, tensors=None):
        (folder / "config.json").write_text(self.config.to_json_string())
        save_file(self.tensors() if tensors is None else tensors, folder / "model.safetensors")
        return folder

    def logits(self):
        mask = (np.arange(TOKENS) < TEXT_LENGTHS[:, None]).astype(np.int32)
        return self.model(token_ids(), mask, params=self.params).logits[mask > 0]


def own_logits(checkpoint):
    """Of the tokens that are not padding; the head is asked for one position after the other."""
    mask = (np.arange(TOKENS) < TEXT_LENGTHS[:, None]).astype(np.float32)
    stream = Transformer(checkpoint.config).apply(checkpoint.variables, jnp.asarray(token_ids()), jnp.asarray(mask))
    rows = stream[mask > 0][:, None, :]
    head = LabelWordHead(checkpoint.config, checkpoint.config.vocab_size)
    return head.apply({"params": checkpoint.head}, rows, jnp.ones(rows.shape[:2]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": False, "activation_function": "gelu"},
        {"activation_function": "relu", "layer_norm_epsilon": 0.1, "n_inner": None},
    ],
)
def test_models_of_transformers_compute_the_same_here(settings, tmp_path):
    hub = HubDecoder(**settings)
    checkpoint = load_checkpoint(hub.save(tmp_path))
    assert checkpoint.model_type == "gpt2"
    expected = hub.logits()
    np.testing.assert_allclose(own_logits(checkpoint), expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 0.1


@pytest.mark.parametrize("field", [{"activation": "gelu"}, {"layer_norm_epsilon": 1e-2}])
def test_the_tolerance_tells_settings_apart(field, tmp_path):
    hub = HubDecoder()
    checkpoint = load_checkpoint(hub.save(tmp_path))
    other = replace(checkpoint, config=replace(checkpoint.config, **field))
    assert np.abs(own_logits(other) - hub.logits()).max() > 2 * TOLERANCE


def test_names_of_the_first_checkpoints_are_understood(tmp_path):
    """gpt2 itself has no prefix, and keeps the causal masks."""
    hub = HubDecoder()
    whole = load_checkpoint(hub.save(tmp_path))
    old = {name.removeprefix("transformer."): tensor for name, tensor in hub.tensors().items()}
    old |= {f"h.{i}.attn.bias": np.tri(19, dtype=np.float32)[None, None] for i in range(2)}
    checkpoint = load_checkpoint(hub.save(tmp_path, old))
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, whole.variables)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.head, whole.head)
    with pytest.raises(CheckpointError, match="h.2.ln_1.weight and 0 more tensors that a GPT2Model or GPT2LMHeadModel"):
        load_checkpoint(hub.save(tmp_path, {**old, "h.2.ln_1.weight": np.ones(21, np.float32)}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("scale_attn_by_inverse_layer_idx", True), ("scale_attn_weights", False), ("add_cross_attention", True)],
)
def test_what_is_computed_otherwise_is_refused(key, value, tmp_path):
    folder = HubDecoder().save(tmp_path)
    content = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{key} is {value}, allowed: {not value}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "fields",
    [
        *KINDS.values(),
        {**KINDS["fourier"], "activation": "series", "series": fit_gelu(6, 4)},
        {"activation": "quadratic"},
    ],
    ids=[*KINDS, "fourier-series", "quadratic"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_saved_checkpoints_come_back_exactly(fields, tied, tmp_path):
    config = replace(DECODER, **fields)
    variables, head = transformer_variables(config), head_params(config)
    if tied:
        head["decoder"]["kernel"] = variables["params"]["embeddings"]["word"]["embedding"].T
    save_checkpoint(tmp_path, config, variables, head, model_type="gpt2")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config == config
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, variables)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.head, head)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_what_we_save(tied, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the second implementation is transformers'")
    variables, head = transformer_variables(DECODER), head_params(DECODER)
    if tied:
        head["decoder"]["kernel"] = variables["params"]["embeddings"]["word"]["embedding"].T
    save_checkpoint(tmp_path, DECODER, variables, head, model_type="gpt2", special_ids={"eos": 5})
    model = transformers.FlaxGPT2LMHeadModel.from_pretrained(tmp_path)
    assert (model.config.eos_token_id, model.config.tie_word_embeddings) == (5, tied)
    mask = (np.arange(TOKENS) < TEXT_LENGTHS[:, None]).astype(np.int32)
    logits = model(token_ids(), mask).logits[mask > 0]
    np.testing.assert_allclose(own_logits(load_checkpoint(tmp_path)), logits, rtol=0, atol=TOLERANCE)


def test_a_decoder_without_its_last_norm_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="has its last norm in its head: pass head"):
        save_checkpoint(tmp_path, DECODER, transformer_variables(DECODER), model_type="gpt2")
    with pytest.raises(CheckpointError, match=r"config.(causal|position_offset) is .*, a roberta model"):
        save_checkpoint(tmp_path, replace(DECODER, head_activation="gelu"), transformer_variables(DECODER))


def test_a_data_owner_gets_words_and_positions_alone(tmp_path):
    variables = transformer_variables(DECODER)
    save_checkpoint(tmp_path / "model", DECODER, variables, head_params(DECODER), model_type="gpt2")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    save_embeddings(tmp_path / "model", tmp_path / "tables")
    assert set(load_file(tmp_path / "tables" / "model.safetensors")) == {
        "transformer.wte.weight",
        "transformer.wpe.weight",
    }
    config, params = load_embeddings(tmp_path / "tables")
    assert config == DECODER
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"]["embeddings"])
    words, places = params["word"]["embedding"], params["position"]["embedding"]
    embedded = Embeddings(config).apply({"params": params}, words[token_ids()], 4)
    np.testing.assert_array_equal(embedded, words[token_ids()] + places[4 : 4 + TOKENS])


# Layers


def test_a_token_sees_none_after_it(config):
    """So that padding, which is behind the text, needs no mask."""
    encoder, variables = Transformer(config), variables_of(config)
    ids = token_ids()
    other = np.where(np.arange(TOKENS) < 4, ids, (ids + 1) % CONFIG.vocab_size)
    mask = jnp.ones((BATCH, TOKENS))
    one, two = (np.asarray(encoder.apply(variables, jnp.asarray(x), mask)) for x in (ids, other))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert np.abs(one[:, 4:] - two[:, 4:]).max(-1).min() > 0.1
    short = np.asarray(encoder.apply(variables, jnp.asarray(ids[:, :4]), mask[:, :4]))
    np.testing.assert_allclose(short, one[:, :4], rtol=0, atol=TOLERANCE)
    first = np.where(np.arange(TOKENS) > 0, ids, (ids + 1) % CONFIG.vocab_size)
    seen = np.asarray(encoder.apply(variables, jnp.asarray(first), mask))
    assert np.abs(seen - one)[:, -1].max() > 1e-3, "the last token does not see the first"


@pytest.mark.parametrize("activation", ["gelu_tanh", "quadratic"])
def test_a_folded_layer_computes_the_same(config, activation):
    config = replace(config, activation=activation)
    layer = {"params": variables_of(config)["params"]["layers_1"]}
    public = variables_of(config)["public"].get("layers_1", {})
    hidden = np.random.default_rng(4).normal(size=(BATCH, TOKENS, config.width)).astype(np.float32) * 3
    raw = DecoderLayer(config).apply({**layer, "public": public}, hidden)
    folded = fold_layer(layer["params"], None, config)
    assert not {"attention_norm", "intermediate_norm", "attention_residual", "output_residual"} & folded.keys()
    found = DecoderLayer(config, setting=FOLDED).apply({"params": folded, "public": public}, hidden)
    # A value's bias passes through weights that add up to one: with features only as nearly as the divisor is 1/x.
    np.testing.assert_allclose(found, raw, rtol=0, atol=TOLERANCE if config.attention == "softmax" else 5e-3)
    gains = layer["params"]["attention_norm"]["scale"]
    assert np.abs(raw - hidden).max() > 1
    assert np.abs(gains - 1).max() > 0.1
    head = head_params(config)
    assert fold_head(head, None) is head


# Sums over the keys up to a query


@pytest.mark.parametrize(("tokens", "features", "columns"), [(1, 6, 2), (7, 6, 5), (13, 6, 2), (37, 6, 2)])
def test_blocks_make_the_mean_over_the_keys_up_to_each_query(tokens, features, columns):
    rng = np.random.default_rng(tokens)
    query, key = rng.normal(size=(2, 2, 3, tokens, features))
    values = rng.normal(size=(2, 3, tokens, columns))
    blocks, size = causal_blocks(tokens, features, columns)
    assert (blocks - 1) * size < tokens <= blocks * size
    found = np.asarray(summarise_causal(query, key, values))
    expected = np.zeros(values.shape)
    for b, h, i in np.ndindex(2, 3, tokens):
        kernels = key[b, h, : i + 1] @ query[b, h, i] / (features // 2)
        expected[b, h, i] = kernels @ values[b, h, : i + 1] / (i + 1)
    short = np.median(found / expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected * short, rtol=0, atol=1e-5)
    assert short.max() <= 1 + 1e-5
    assert short.min() > 1 - 1 / 32


def test_several_blocks_are_among_those_tests():
    assert [causal_blocks(tokens, 6, columns)[0] for tokens, columns in ((1, 2), (7, 5), (13, 2), (37, 2))] == [
        1,
        1,
        4,
        10,
    ]


def test_cost_is_linear_in_the_number_of_tokens():
    """A block is as long for any text, of GPT-2's heads with 64 frequencies about 91 tokens."""
    assert causal_blocks(64, 128, 65) == (1, 64)
    assert causal_blocks(256, 128, 65) == (3, 86)
    assert causal_blocks(1024, 128, 65) == (11, 94)


@pytest.mark.parametrize("kind", ["rfa", "fourier"])
def test_attention_by_features_is_that_of_its_kernel(kind):
    """Query by query in float64: a mean of cosines of angles between it and the keys up to it."""
    config = replace(DECODER, **KINDS[kind])
    heads, head_dim, length = config.heads, config.head_dim, 0.6
    query, key, value = np.random.default_rng(0).normal(size=(3, BATCH, heads, TOKENS, head_dim)).astype(np.float32) / 4
    if kind == "rfa":
        frequencies = np.broadcast_to(orthogonal_frequencies(head_dim, 29, (3, 0)), (heads, head_dim, 29))
        params = {"length": np.full(heads, length, np.float32)}
        scaled = [length * x / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True) for x in (query, key)]
    else:
        frequencies = np.stack([orthogonal_frequencies(head_dim, 29, (3, 0, head)) for head in range(heads)])
        params = {"frequencies": frequencies}
        scaled = [x.astype(np.float64) for x in (query, key)]
    variables = {"params": params, "public": {"frequencies": frequencies[0]} if kind == "rfa" else {}}
    found = np.asarray(ATTENTIONS[kind](config).apply(variables, query, key, value, None))
    for b, h, i in np.ndindex(BATCH, heads, TOKENS):
        difference = scaled[0][b, h, i] - scaled[1][b, h, : i + 1]
        kernel = np.cos(2 * np.pi * difference @ frequencies[h].astype(np.float64)).mean(-1)
        assert kernel.mean() > 2 * FLOOR
        expected = kernel @ value[b, h, : i + 1] / kernel.sum()
        # A length is off by NORM_EPSILON / (2 |q|**2), and a divisor of "fourier" by 1e-3 of itself.
        np.testing.assert_allclose(found[b, h, i], expected, rtol=1e-3, atol=1e-3)
