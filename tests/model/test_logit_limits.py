"""No logit is beyond the bound of its head, and the bound is near what some row reaches."""

import jax
import numpy as np
import pytest
from random_weights import CONFIG, head_params

from secp_spu.model import LabelEmbeddingHead, LabelWordHead, TransformerConfig, label_embedding_limit, label_word_limit
from secp_spu.model.head import SECURE_MARGIN

ROWS, LABELS = 4_000, 3
READOUT = np.ones((ROWS, 1), np.float32)


def _head(seed, **extra):
    rng = np.random.default_rng(seed)
    columns = {"kernel": rng.normal(size=(CONFIG.width, LABELS)) / 3, "bias": rng.normal(size=LABELS)}
    norm = {"scale": 1 + rng.normal(size=CONFIG.width) / 3, "bias": rng.normal(size=CONFIG.width)}
    return jax.tree.map(np.float32, {**head_params(CONFIG), "norm": norm, "decoder": columns} | extra)


@pytest.mark.parametrize("seed", range(5))
def test_no_logit_of_a_label_word_is_beyond_the_bound(seed):
    hidden = 10 * np.random.default_rng(seed).normal(size=(ROWS, 1, CONFIG.width)).astype(np.float32)
    params = {**_head(seed), "dense": head_params(CONFIG)["dense"]}
    logits = np.asarray(LabelWordHead(CONFIG, LABELS).apply({"params": params}, hidden, READOUT))
    limit = label_word_limit(params)
    assert np.log2(limit) % 1 == 0
    assert np.abs(logits).max() <= limit / SECURE_MARGIN


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_a_decoder_is_within_a_few_times_of_what_a_row_reaches(seed):
    """The row that is the column itself, times the gain; the power of two and the margin make a factor of 2.25."""
    config = TransformerConfig(**{**vars(CONFIG), "causal": True, "type_vocab_size": 0})
    head = _head(seed)
    head["decoder"].pop("bias")
    del head["dense"]
    column = head["norm"]["scale"][:, None] * head["decoder"]["kernel"]
    hidden = np.repeat(np.concatenate([column.T, -column.T])[:, None], 1, 1)
    readout = np.ones((2 * LABELS, 1), np.float32)
    logits = np.asarray(LabelWordHead(config, LABELS).apply({"params": head}, hidden, readout))
    reached = np.abs(logits).max()
    assert 2 * SECURE_MARGIN * 1.3 * reached >= label_word_limit(head) >= SECURE_MARGIN * reached


def test_no_similarity_is_beyond_the_bound():
    labels = np.random.default_rng(0).normal(size=(LABELS, CONFIG.width)).astype(np.float32)
    labels /= np.linalg.norm(labels, axis=-1, keepdims=True)
    hidden = np.concatenate([labels, -labels])[:, None]
    logits = LabelEmbeddingHead().apply({"params": {}}, hidden, np.ones((2 * LABELS, 1), np.float32), labels)
    assert np.abs(logits).max() == pytest.approx(20, rel=1e-5)
    assert label_embedding_limit() == 32
