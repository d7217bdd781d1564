"""Where tuning starts: random words, words, a tuned prompt or a PEFT adapter; at z = 0 it is what it was."""

import numpy as np
import pytest
from small_runs import LABELS, PRIVATE, SMALL, answers_of, tune_in_plaintext

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.model import load_embeddings
from secp_spu.tuning import DataOwner, SoftPrompt, export_peft, save_prompt
from secp_spu.tuning.task import TaskTokenizer

MODEL = load_config(DEMO_CONFIG).model.folder
WORDS = load_embeddings(MODEL)[1]["word"]["embedding"]

ROUNDING = 1e-3
"""Of float32 sums in another order, in logits of some ten units, a tenth of what the prompt does to them at least."""


def configured(*settings):
    return load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", "tuning.seed=7", *settings])


def owner(folder, *settings):
    return DataOwner(configured(*settings), folder, resume=False)


def untuned(folder, *settings):
    """Logits of the initial prompt."""
    return answers_of(configured(*settings), folder, "untuned")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tune_in_plaintext(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def tuned(run):
    """Logits of the run's prompt, as tuning found them."""
    return answers_of(load_config(run / "config.yaml"), run, "best")


@pytest.mark.slow("going on from a prompt starts at its logits; three runs")
def test_a_tuned_prompt_reproduces_its_logits_at_z_zero(run, tuned, tmp_path):
    """In a run with another seed, hence other words and another A, whose own initial prompt says something else."""
    np.testing.assert_array_equal(untuned(tmp_path / "again", f"tuning.initial_prompt={{run: {run}}}"), tuned)
    assert np.abs(untuned(tmp_path / "random") - tuned).max() > 0.1


def test_an_adapter_reproduces_its_logits_at_z_zero(run, tuned, tmp_path):
    export_peft(run, tmp_path / "adapter")
    found = untuned(tmp_path / "again", f"tuning.initial_prompt={{peft: {tmp_path / 'adapter'}}}")
    np.testing.assert_array_equal(found, tuned)


@pytest.mark.slow("prompts cross between private and public; many runs")
@pytest.mark.parametrize("head", [(), LABELS], ids=["label-words", "label-embeddings"])
def test_a_prompt_without_the_table_goes_on_with_and_without_it(tmp_path, head):
    private = tune_in_plaintext(tmp_path / "private", PRIVATE, *head)
    tuned = answers_of(load_config(private / "config.yaml"), private, "best")
    key = f"tuning.initial_prompt={{run: {private}}}"
    np.testing.assert_allclose(untuned(tmp_path / "without", key, PRIVATE, *head), tuned, atol=ROUNDING)
    np.testing.assert_allclose(untuned(tmp_path / "with", key, *head), tuned, atol=ROUNDING)
    assert np.abs(untuned(tmp_path / "random", *head) - tuned).max() > 0.1


def test_words_are_repeated_until_there_are_enough(tmp_path):
    initial = owner(tmp_path / "run", "tuning.initial_prompt.words=bad good")._initial
    ids = TaskTokenizer(MODEL / "tokenizer.json").word_ids("bad good")
    assert len(ids) == 2
    np.testing.assert_array_equal(initial.vectors(WORDS), WORDS[[*ids, *ids]])


def test_random_words_follow_from_the_seed_and_are_the_default(tmp_path):
    one = owner(tmp_path / "one")._initial
    same = owner(tmp_path / "same", "tuning.initial_prompt=random")._initial
    np.testing.assert_array_equal(one.start, same.start)
    assert (one.start != owner(tmp_path / "other", "tuning.seed=8")._initial.start).any()


def test_directions_and_candidates_do_not_depend_on_the_initial_prompt(run, tmp_path):
    owners = [
        owner(tmp_path / str(number), *settings)
        for number, settings in enumerate(
            [(), ("tuning.initial_prompt.words=good",), (f"tuning.initial_prompt.run={run}",)]
        )
    ]
    for one in owners:
        np.testing.assert_array_equal(one._space.projection, owners[0]._space.projection)
        one.ask()
        np.testing.assert_array_equal(one._candidates, owners[0]._candidates)


def test_a_run_does_not_go_on_from_another_initial_prompt(tmp_path):
    """The folder that it came of may be another run's, which was resumed too."""
    (tmp_path / "first").mkdir()
    save_prompt(tmp_path / "first" / "prompt.safetensors", SoftPrompt.of_vectors(WORDS[:4]))
    config = configured(f"tuning.initial_prompt.run={tmp_path / 'first'}")
    DataOwner(config, tmp_path / "run", resume=False).begin()
    DataOwner(config, tmp_path / "run", resume=True)
    save_prompt(tmp_path / "first" / "prompt.safetensors", SoftPrompt.of_vectors(WORDS[1:5]))
    with pytest.raises(
        ConfigError, match=r"what tuning.initial_prompt names has changed since the run began: put back"
    ):
        DataOwner(config, tmp_path / "run", resume=True)


def test_a_run_that_has_not_finished_is_no_initial_prompt(tmp_path):
    owner(tmp_path / "begun").begin()
    with pytest.raises(ConfigError, match=r"holds a run that has not finished: go on with `tune\(resume=True\)`"):
        owner(tmp_path / "run", f"tuning.initial_prompt.run={tmp_path / 'begun'}")


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (None, [], r"holds no tuned prompt: give the folder that secp-spu tune wrote"),
        (SoftPrompt.of_vectors(WORDS[:3]), [], r"of shape 3 x 64, but .* make 4 x 64: set tuning.prompt_tokens=3"),
        (SoftPrompt.of_vectors(WORDS[:4, :9]), [], r"of shape 4 x 9, but .* 4 x 64: take one that was made for it"),
        (SoftPrompt.of_vectors(np.inf * WORDS[:4]), [], "holds a prompt with values that are not finite"),
        (SoftPrompt.of_tokens(np.array([0, 1, 2, 781]), 64), [], "holds tokens that are none of the model's"),
        (
            SoftPrompt.of_vectors(WORDS[:4]),
            [PRIVATE],
            "holds vectors, but with model.embedding: private .* from tokens",
        ),
    ],
    ids=["none", "length", "width", "not finite", "vocabulary", "private"],
)
def test_a_prompt_that_does_not_fit_is_refused(tmp_path, prompt, settings, message):
    if prompt is not None:
        save_prompt(tmp_path / "prompt.safetensors", prompt)
    with pytest.raises(ConfigError, match=message):
        owner(tmp_path / "run", f"tuning.initial_prompt.run={tmp_path}", *settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("the food was very good", "has 6 tokens, but tuning.prompt_tokens is 4: shorten the text, or raise it"),
        ("''", "tuning.initial_prompt.words holds no word"),
    ],
)
def test_words_that_do_not_fit_are_refused(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        owner(tmp_path / "run", f"tuning.initial_prompt.words={words}")
