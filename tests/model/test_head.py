import jax
import numpy as np
import pytest
from random_weights import CONFIG, head_params, transformer_variables

from secp_spu.model import (
    CheckpointError,
    LabelEmbeddingHead,
    LabelWordHead,
    PooledEmbedding,
    load_checkpoint,
    read_out,
    save_checkpoint,
)

BATCH, TOKENS = 3, 5
TEXT_LENGTHS = np.array([5, 2, 3])
MASK_POSITIONS = np.array([4, 0, 1])

# Sums of up to 21 products of size one, in two orders: 21 * 2**-24 = 1.3e-6, a few of them in a row.
ROUNDING = 5e-6


@pytest.fixture
def hidden():
    return np.random.default_rng(0).normal(size=(BATCH, TOKENS, CONFIG.width)).astype(np.float32)


@pytest.fixture
def at_mask():
    """The readout row of label words."""
    return np.eye(TOKENS, dtype=np.float32)[MASK_POSITIONS]


@pytest.fixture
def over_tokens():
    """The readout row of sentence embeddings."""
    mask = np.arange(TOKENS) < TEXT_LENGTHS[:, None]
    return (mask / TEXT_LENGTHS[:, None]).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path, CONFIG, transformer_variables(CONFIG), head_params(CONFIG))
    return load_checkpoint(tmp_path)


def test_readout_picks_the_mask_position(hidden, at_mask):
    np.testing.assert_array_equal(read_out(hidden, at_mask), hidden[np.arange(BATCH), MASK_POSITIONS])


def test_label_words_are_columns_of_the_whole_head(checkpoint, hidden, at_mask):
    token_ids = [17, 3, 29]
    whole = LabelWordHead(CONFIG, CONFIG.vocab_size).apply({"params": checkpoint.head}, hidden, at_mask)
    params = checkpoint.label_word_head(token_ids)
    assert params["decoder"]["kernel"].shape == (CONFIG.width, len(token_ids))
    logits = LabelWordHead(CONFIG, len(token_ids)).apply({"params": params}, hidden, at_mask)
    np.testing.assert_allclose(logits, whole[:, token_ids], rtol=0, atol=ROUNDING)
    assert np.abs(np.diff(whole[:, token_ids], axis=1)).min() > 10 * ROUNDING, "the columns cannot be told apart"


def test_label_word_head_reads_the_mask_position_alone(checkpoint, hidden, at_mask):
    head = LabelWordHead(CONFIG, CONFIG.vocab_size)
    before = head.apply({"params": checkpoint.head}, hidden, at_mask)
    elsewhere = hidden + (1 - at_mask)[:, :, None]
    np.testing.assert_array_equal(head.apply({"params": checkpoint.head}, elsewhere, at_mask), before)


@pytest.mark.parametrize("token", [-1, CONFIG.vocab_size])
def test_label_words_outside_the_vocabulary_are_refused(checkpoint, token):
    with pytest.raises(ValueError, match=f"token_ids holds {token}, allowed are 0 to 30"):
        checkpoint.label_word_head([3, token])


def test_label_words_of_a_checkpoint_without_head_are_refused(tmp_path):
    save_checkpoint(tmp_path, CONFIG, transformer_variables(CONFIG))
    with pytest.raises(CheckpointError, match=r"no masked-LM head.*RobertaForMaskedLM"):
        load_checkpoint(tmp_path).label_word_head([3])


def test_pooled_embedding_is_the_masked_mean_of_length_one(hidden, over_tokens):
    means = np.stack([hidden[b, :length].mean(0) for b, length in enumerate(TEXT_LENGTHS)])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(PooledEmbedding().apply({}, hidden, over_tokens), expected, rtol=0, atol=ROUNDING)


def test_label_embedding_logits_are_twenty_cosines(hidden, over_tokens):
    labels = np.random.default_rng(1).normal(size=(2, CONFIG.width)).astype(np.float32)
    labels /= np.linalg.norm(labels, axis=1, keepdims=True)
    pooled = np.stack([hidden[b, :length].mean(0) for b, length in enumerate(TEXT_LENGTHS)])
    cosines = pooled @ labels.T / np.linalg.norm(pooled, axis=1, keepdims=True)
    logits = LabelEmbeddingHead().apply({}, hidden, over_tokens, labels)
    np.testing.assert_allclose(logits, 20 * cosines, rtol=0, atol=20 * ROUNDING)
    shapes = jax.eval_shape(LabelEmbeddingHead().init, jax.random.key(0), hidden, over_tokens, labels)
    assert jax.tree.leaves(shapes) == [], "it has no weights"
