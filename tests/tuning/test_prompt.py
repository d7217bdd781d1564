"""p = A z + p0, with black-box tuning's scale; prompts survive a file."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from secp_spu.config import ConfigError
from secp_spu.tuning import PromptSpace, load_prompt, save_prompt
from secp_spu.tuning.prompt import save_unembedded_prompt

WORDS = np.random.default_rng(0).normal(scale=0.05, size=(211, 13)).astype(np.float32)


def _space(**options):
    return PromptSpace.random(WORDS.shape, 17, 101, rng=np.random.default_rng(5), **options)


def test_prompts_are_affine_in_z():
    space = _space()
    points = np.random.default_rng(1).normal(size=(3, 101))
    prompts = space.prompts(points, WORDS)
    assert prompts.shape == (3, 17, 13)
    assert prompts.dtype == np.float32
    for point, prompt in zip(points, prompts, strict=True):
        expected = WORDS[space.initial_tokens] + WORDS.std() * (space.projection @ point).reshape(17, 13)
        np.testing.assert_allclose(prompt, expected, atol=1e-6)  # one rounding to float32 of values below 1


def test_z_zero_is_the_embeddings_of_words():
    (untuned,) = _space().prompts(np.zeros((1, 101)), WORDS)
    for vector in untuned:
        assert np.abs(WORDS - vector).sum(-1).min() == 0


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 1.0), (0.2, 0.5), (3.0, 2.0)])
def test_the_first_generation_moves_prompts_by_alpha_standard_deviations(alpha, sigma):
    space = _space(alpha=alpha, sigma=sigma)
    points = np.random.default_rng(2).normal(scale=sigma, size=(400, 101))
    moved = space.shifts(points).std() * WORDS.std()
    # 17 * 13 * 101 entries of A: its own spread is off by 1/sqrt(2 * 22321) = 0.5 %; five of these, and as much for z
    assert moved == pytest.approx(alpha * WORDS.std(), rel=0.05)


def test_a_prompt_survives_a_file(tmp_path):
    prompt = _space().prompts(np.zeros((1, 101)), WORDS)[0]
    save_prompt(tmp_path / "p.safetensors", prompt)
    np.testing.assert_array_equal(load_prompt(tmp_path / "p.safetensors"), prompt)


def test_without_the_table_a_prompt_is_tokens_and_a_shift(tmp_path):
    """The file has all that the table's owner needs to put the prompt together, and is taken for no prompt."""
    space, point, path = _space(), np.random.default_rng(3).normal(size=(1, 101)), tmp_path / "p.safetensors"
    save_unembedded_prompt(path, space.initial_tokens, space.shifts(point)[0])
    saved = load_file(path)
    whole = WORDS[saved["initial_tokens"]] + WORDS.std() * saved["shift"]
    np.testing.assert_allclose(whole, space.prompts(point, WORDS)[0], atol=1e-6)
    with pytest.raises(ConfigError, match="model.embedding: private"):
        load_prompt(path)


def test_another_file_is_no_prompt(tmp_path):
    (tmp_path / "p.safetensors").write_text("no")
    with pytest.raises(ConfigError, match="holds no soft prompt"):
        load_prompt(tmp_path / "p.safetensors")
