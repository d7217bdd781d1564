"""p = A z + p0, with black-box tuning's scale; prompts survive a file."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from secp_spu.errors import ConfigError
from secp_spu.tuning import PromptSpace, SoftPrompt, load_prompt, save_prompt

WORDS = np.random.default_rng(0).normal(scale=0.05, size=(211, 13)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(211, size=17)


def _space(initial=None, **options):
    initial = initial or SoftPrompt.of_tokens(TOKENS, 13)
    return PromptSpace.random(initial, 101, rng=np.random.default_rng(5), **options)


def test_prompts_are_affine_in_z():
    space = _space()
    points = np.random.default_rng(1).normal(size=(3, 101))
    prompts = space.prompts(points, WORDS)
    assert prompts.shape == (3, 17, 13)
    assert prompts.dtype == np.float32
    for point, prompt in zip(points, prompts, strict=True):
        expected = WORDS[TOKENS] + WORDS.std() * (space.projection @ point).reshape(17, 13)
        np.testing.assert_allclose(prompt, expected, atol=1e-6)  # one rounding to float32 of values below 1


@pytest.mark.parametrize(
    "initial",
    [
        SoftPrompt.of_tokens(TOKENS, 13),
        SoftPrompt.of_vectors(np.random.default_rng(4).normal(size=(17, 13)).astype(np.float32)),
        SoftPrompt(TOKENS, np.random.default_rng(4).normal(size=(17, 13)).astype(np.float32)),
    ],
    ids=["tokens", "vectors", "tokens-and-shift"],
)
def test_z_zero_is_the_initial_prompt(initial):
    (untuned,) = _space(initial).prompts(np.zeros((1, 101)), WORDS)
    np.testing.assert_allclose(untuned, initial.vectors(WORDS), atol=1e-6)  # roundings to float32 of values below 5
    if not initial.shift.any():
        np.testing.assert_array_equal(untuned, initial.vectors(WORDS))


def test_tokens_stand_for_their_word_embeddings():
    np.testing.assert_array_equal(SoftPrompt.of_tokens(TOKENS, 13).vectors(WORDS), WORDS[TOKENS])


def test_the_prompt_of_a_point_is_the_same_with_and_without_the_table():
    initial = SoftPrompt(TOKENS, np.random.default_rng(4).normal(size=(17, 13)))
    space, point = _space(initial), np.random.default_rng(3).normal(size=101)
    np.testing.assert_array_equal(space.at(point).vectors(WORDS), space.prompts(point[None], WORDS)[0])


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 1.0), (0.2, 0.5), (3.0, 2.0)])
def test_the_first_generation_moves_prompts_by_alpha_standard_deviations(alpha, sigma):
    space = _space(alpha=alpha, sigma=sigma)
    points = np.random.default_rng(2).normal(scale=sigma, size=(400, 101))
    moved = space.shifts(points).std() * WORDS.std()
    # 17 * 13 * 101 entries of A: its own spread is off by 1/sqrt(2 * 22321) = 0.5 %; five of these, and as much for z
    assert moved == pytest.approx(alpha * WORDS.std(), rel=0.05)


@pytest.mark.parametrize("of_words", [False, True], ids=["vectors", "tokens-and-shift"])
def test_a_prompt_survives_a_file(tmp_path, of_words):
    prompt = _space().at(np.random.default_rng(3).normal(size=101))
    if not of_words:
        prompt = SoftPrompt.of_vectors(prompt.vectors(WORDS))
    save_prompt(tmp_path / "p.safetensors", prompt)
    loaded = load_prompt(tmp_path / "p.safetensors")
    assert loaded.of_words == of_words
    np.testing.assert_array_equal(loaded.start, prompt.start)
    np.testing.assert_array_equal(loaded.shift, prompt.shift.astype(np.float32))


def test_vectors_with_a_shift_are_not_saved_without_it(tmp_path):
    with pytest.raises(ValueError, match="holds vectors and a shift"):
        save_prompt(tmp_path / "p.safetensors", SoftPrompt(WORDS[:17], np.ones((17, 13))))


@pytest.mark.parametrize(
    "tensors",
    [
        {"vectors": WORDS},
        {"initial_tokens": TOKENS[:16], "shift": WORDS[:17]},
        {"initial_tokens": TOKENS.astype(np.float32), "shift": WORDS[:17]},
        {"initial_tokens": TOKENS[:, None], "shift": WORDS[:17]},
    ],
    ids=["other names", "fewer tokens", "no whole numbers", "a column of tokens"],
)
def test_other_tensors_are_no_prompt(tmp_path, tensors):
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match=r"p.safetensors holds no soft prompt \(.*\): copy it anew"):
        load_prompt(tmp_path / "p.safetensors")


def test_another_file_is_no_prompt(tmp_path):
    (tmp_path / "p.safetensors").write_text("no")
    with pytest.raises(ConfigError, match="holds no soft prompt"):
        load_prompt(tmp_path / "p.safetensors")
