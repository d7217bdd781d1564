from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import CONFIG, transformer_variables

from secp_spu.model import Embeddings, EncoderLayer, Transformer, TransformerConfig, load_checkpoint, save_checkpoint
from secp_spu.protocol import CosineCorrelation

RFA = replace(CONFIG, attention="rfa", features=29, feature_seed=3)
BATCH, TOKENS, PADDING = 3, 11, 4

# Hidden states after a layer norm are below 8; two orders of adding up to 23 products, in two layers of some ten steps
# each, differ by 8 * 2 * 10 * sqrt(23) * 2**-24 = 5e-5.
ROUNDING = 5e-5


@pytest.fixture(params=[CONFIG, RFA], ids=["softmax", "rfa"])
def config(request) -> TransformerConfig:
    return request.param


@pytest.fixture
def tokens():
    """Token ids; all texts end before the last PADDING places."""
    return jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (BATCH, TOKENS)))


def mask_of(length: int):
    return (jnp.arange(TOKENS) < length).astype(jnp.float32) * jnp.ones((BATCH, 1))


@pytest.mark.slow("layer-wise running, as under MPC, is exact; compiles each")
def test_layers_of_a_checkpoint_one_by_one_are_the_encoder(config, tokens, tmp_path):
    save_checkpoint(tmp_path, config, transformer_variables(config))
    checkpoint = load_checkpoint(tmp_path)
    mask = mask_of(TOKENS - PADDING)
    embeddings = Embeddings(config)
    embed = {"params": checkpoint.variables["params"]["embeddings"]}
    words = embeddings.apply(embed, tokens, method="words")
    embedded = embeddings.apply(embed, words)

    hidden = embedded
    for i in range(config.layers):
        hidden = EncoderLayer(config, i).apply(checkpoint.layer(i), hidden, mask)

    encoder = Transformer(config)
    encoded = encoder.apply(checkpoint.variables, embedded, mask, method="encode")
    np.testing.assert_array_equal(hidden, encoded)
    np.testing.assert_array_equal(hidden, encoder.apply(checkpoint.variables, tokens, mask))

    swapped = EncoderLayer(config, 1).apply(checkpoint.layer(0), embedded, mask)
    assert np.abs(swapped - EncoderLayer(config, 1).apply(checkpoint.layer(1), embedded, mask)).max() > 0.1


def test_a_layer_that_the_checkpoint_lacks_is_an_error(config, tmp_path):
    save_checkpoint(tmp_path, config, transformer_variables(config))
    with pytest.raises(KeyError, match="layers_2"):
        load_checkpoint(tmp_path).layer(2)


def test_padding_of_a_text_does_not_change_its_hidden_states(config, tokens):
    encoder, variables, length = Transformer(config), transformer_variables(config), TOKENS - PADDING
    alone = encoder.apply(variables, tokens[:, :length], jnp.ones((BATCH, length)))
    padded = encoder.apply(variables, tokens, mask_of(length))
    np.testing.assert_allclose(padded[:, :length], alone, rtol=0, atol=ROUNDING)
    unmasked = encoder.apply(variables, tokens, mask_of(TOKENS))
    assert np.abs(unmasked[:, :length] - alone).max() > 100 * ROUNDING


def test_embeddings_of_prompt_and_text_are_the_embeddings_of_the_whole(tokens):
    """A soft prompt is embedded by itself every iteration, the text once."""
    module, prompt_tokens = Embeddings(CONFIG), 5
    variables = {"params": transformer_variables(CONFIG)["params"]["embeddings"]}
    words = module.apply(variables, tokens, method="words")
    whole = module.apply(variables, words)
    prompt = module.apply(variables, words[:, :prompt_tokens])
    text = module.apply(variables, words[:, prompt_tokens:], first_position=prompt_tokens)
    np.testing.assert_array_equal(np.concatenate([prompt, text], axis=1), whole)


def test_words_are_rows_of_the_table(tokens):
    params = transformer_variables(CONFIG)["params"]["embeddings"]
    words = Embeddings(CONFIG).apply({"params": params}, tokens, method="words")
    np.testing.assert_array_equal(words, params["word"]["embedding"][np.asarray(tokens)])


def declared(config, **arguments):
    """Collections of one layer as the offline phase sees them: shapes alone."""
    hidden = jax.ShapeDtypeStruct((BATCH, TOKENS, config.width), jnp.float32)
    mask = jax.ShapeDtypeStruct((BATCH, TOKENS), jnp.float32)
    return jax.eval_shape(EncoderLayer(config, **arguments).init, jax.random.key(0), hidden, mask)


def test_random_feature_layers_declare_one_correlation_for_queries_and_keys():
    correlations = jax.tree.leaves(
        declared(RFA, layer=1)["correlations"], is_leaf=lambda node: isinstance(node, CosineCorrelation)
    )
    (correlation,) = correlations
    shape = (2, BATCH, RFA.heads, TOKENS, RFA.features)
    assert correlation.mask.shape == shape
    assert correlation.cos.shape == correlation.sin.shape == (1, *shape)
    assert (correlation.factor_bits, correlation.turn_bits) == (16, 59)


def test_softmax_layers_declare_nothing_but_params():
    assert declared(CONFIG).keys() == {"params"}


def test_checkpoint_layers_have_the_declared_shapes(config, tmp_path):
    save_checkpoint(tmp_path, config, transformer_variables(config))
    checkpoint = load_checkpoint(tmp_path)
    for i in range(config.layers):
        expected = declared(config, layer=i)
        shapes = jax.tree.map(np.shape, checkpoint.layer(i))
        assert shapes["params"] == jax.tree.map(np.shape, expected["params"])
        assert shapes["public"] == jax.tree.map(np.shape, expected.get("public", {}))
