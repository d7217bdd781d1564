"""A decoder goes the way of encoders: the same configuration but for the template's end, the same driver."""

import json

import jax
import numpy as np
import pytest
from small_decoder import write_decoder

from secp_spu.adaptation.corpus import HELD_OUT
from secp_spu.adaptation.training import Recipe, adapt
from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.model import load_checkpoint
from secp_spu.progress import Progress
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, make_runtime, set_up, tune
from secp_spu.tuning.task import Example, TaskTokenizer

DEMO = load_config(DEMO_CONFIG)
SMALL = (
    "task.shots=1",
    "task.validation_shots=1",
    "task.test_examples=2",
    "tuning.population=4",
    "tuning.generations=1",
)

MPC_ERROR = 0.01
"""Between losses under MPC and in plaintext: half of what test_secure_decoder.py allows two logits. Seen: 2e-3."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"), "fourier")


def run(folder, model, *settings):
    """Tune with small settings, and return the record."""
    config = load_config(DEMO_CONFIG, [*SMALL, f"model.folder={model}", *settings])
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
    return RunRecord.load(folder)


@pytest.fixture(scope="module")
def plaintext(folder, tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "plaintext", folder, "protocol=plaintext").generations[0]


@pytest.mark.slow("decoders are tuned under MPC, both embeddings; whole runs")
@pytest.mark.parametrize("embedding", ["data_owner", "private"])
def test_secure_tuning_has_the_losses_of_plaintext_tuning(folder, plaintext, embedding, tmp_path):
    secure = run(tmp_path / "secure", folder, f"model.embedding={embedding}").generations[0]
    assert np.ptp(plaintext.losses) > 3 * MPC_ERROR, "the tolerance cannot tell candidates from each other"
    assert secure.candidates == plaintext.candidates
    np.testing.assert_allclose(secure.losses, plaintext.losses, rtol=0, atol=MPC_ERROR)
    np.testing.assert_allclose(secure.validation_loss, plaintext.validation_loss, rtol=0, atol=MPC_ERROR)


def test_a_decoder_has_no_label_embeddings(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"is a decoder: set model.head: label_words"):
        run(tmp_path / "run", folder, "protocol=plaintext", "model.head=label_embeddings")


def test_texts_are_read_at_their_last_token(folder):
    """The mask with which the template ends is no token, nor is the space before it: label words have their own."""
    tokenizer = TaskTokenizer(folder / "tokenizer.json", causal=True)
    examples = [Example({"text": "the soup was great"}, 0), Example({"text": "no"}, 0)]
    batch = tokenizer.encode(examples, DEMO.task)
    lengths = batch.padding_mask.sum(1).astype(int)
    assert lengths[0] > lengths[1] > 1
    np.testing.assert_array_equal(batch.mask_row.argmax(1), lengths - 1)
    np.testing.assert_array_equal(batch.mask_row.sum(1), [1, 1])
    last = batch.token_ids[np.arange(2), lengths - 1]
    assert (last == last[0]).all(), "both end with the template's colon"
    assert (batch.token_ids[1, lengths[1] :] == tokenizer.padding_id).all()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} : {mask} .", r"'\{text\} : \{mask\} \.', but a decoder says what comes next"),
        ("{text}{mask}", "no token"),
    ],
)
def test_a_template_that_leaves_nothing_to_go_on_from_is_refused(folder, template, message):
    tokenizer = TaskTokenizer(folder / "tokenizer.json", causal=True)
    with pytest.raises(ConfigError, match=message):
        tokenizer.encode([Example({"text": ""}, 0)], DEMO.task.model_copy(update={"template": template}))


@pytest.mark.slow("adapting knows a decoder's head and causal mask; a whole adaptation")
def test_a_decoder_is_adapted_as_encoders_are(tmp_path):
    """Nearer to its teacher than it began, and loaded like any checkpoint."""
    (tmp_path / "teacher").mkdir()
    teacher = write_decoder(tmp_path / "teacher", "softmax")
    rng, corpus = np.random.default_rng(1), tmp_path / "lines.txt"
    words = ["the", "a", "soup", "waiter", "was", "not", "very", "good", "bad", "cold", "and", "we", "they", "came"]
    corpus.write_text("\n".join(" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(HELD_OUT + 300)))
    recipe = Recipe(
        teacher, corpus, features=16, steps=60, rate=3e-3, batch_tokens=128, max_tokens=12, prompt_tokens=4, every=60
    )
    done = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    first, *_, last = map(json.loads, (tmp_path / "out" / "adaptation.jsonl").read_text().splitlines())
    assert last["similarity"] == done.similarity > first["similarity"] + 0.3 * (1 - first["similarity"])
    loaded, before = load_checkpoint(tmp_path / "out", attention="fourier"), load_checkpoint(teacher)
    assert loaded.model_type == "gpt2"
    jax.tree.map(np.testing.assert_array_equal, loaded.head, before.head)
