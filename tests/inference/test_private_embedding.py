"""Tokens looked up under MPC: exactly, in one product whatever the vocabulary, and as the plaintext module embeds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixed_point import Arithmetic
from parties import ABY3, SEMI2K_2, SEMI2K_3, ULP, cost_of, opened, shared

from secp_spu.inference import SHIFT_BITS, PrivateEmbedding, encoded_words, one_hot, other_tables
from secp_spu.inference import private_embedding as embedding
from secp_spu.model import HIDDEN_BITS, SUM_BITS, Embeddings, TransformerConfig
from secp_spu.model.precision import SCALE_BITS, VARIANCE_BITS
from secp_spu.protocol import FRACTION_BITS, to_storage
from secp_spu.runtime import PlaintextRuntime

CONFIG = TransformerConfig(
    vocab_size=53,
    width=21,
    layers=1,
    heads=3,
    intermediate=13,
    max_positions=11,
    position_offset=2,
    type_vocab_size=2,
    layer_norm_epsilon=1e-5,
)
TEXTS, TOKENS, PROMPT_TOKENS, CANDIDATES = 2, 5, 3, 2
IDS = np.random.default_rng(0).integers(CONFIG.vocab_size, size=(TEXTS, TOKENS))
KEEP = np.int32([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def tables():
    """Params of `Embeddings`, of the size that trained ones have."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(Embeddings(CONFIG).init, jax.random.key(0), jnp.zeros((1, 1, CONFIG.width)))["params"]

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return 1 + noise / 10 if path[-1].key == "scale" else noise / 10

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params | {"word": {"embedding": rng.normal(size=(CONFIG.vocab_size, CONFIG.width)).astype(np.float32) / 20}}


PARAMS = tables()
WORDS = PARAMS["word"]["embedding"]
PLACES = PARAMS["position"]["embedding"] + PARAMS["type"]["embedding"][0]


def private_embedding(runtime):
    def share_words(rows):
        return shared(runtime, encoded_words(PARAMS, rows))

    return PrivateEmbedding(runtime, CONFIG, share_words, shared(runtime, other_tables(PARAMS)))


def look_up(runtime, made, ids):
    flat = np.ravel(ids)
    return made.look_up(
        range(len(flat)), lambda tokens, rows: shared(runtime, one_hot(flat[tokens.start : tokens.stop], rows))
    )


def embed_texts(runtime):
    made = private_embedding(runtime)
    return hidden(runtime, made.embed(look_up(runtime, made, IDS), shared(runtime, KEEP), PROMPT_TOKENS))


def embed_prompts(runtime):
    made = private_embedding(runtime)
    prompts = made.prompts(look_up(runtime, made, IDS[0, :PROMPT_TOKENS]))
    return hidden(runtime, prompts.embed(shared(runtime, to_storage(SHIFTS, SHIFT_BITS))))


def hidden(runtime, handle):
    """Of HIDDEN_BITS fraction bits, as numbers."""
    return opened(runtime, handle) * 2.0 ** (FRACTION_BITS - HIDDEN_BITS)


SHIFTS = np.random.default_rng(2).normal(size=(CANDIDATES, PROMPT_TOKENS, CONFIG.width)).astype(np.float32)


def without_gain(embedded):
    """What `Embeddings` gives, before the gain and shift of its norm."""
    return (embedded - PARAMS["norm"]["bias"]) / PARAMS["norm"]["scale"]


def flax_texts(config=CONFIG):
    embedded = Embeddings(config).apply({"params": PARAMS}, WORDS[IDS], PROMPT_TOKENS)
    return without_gain(embedded) * KEEP[..., None]


def flax_prompts():
    vectors = WORDS[IDS[0, :PROMPT_TOKENS]] + WORDS.std() * SHIFTS
    return without_gain(Embeddings(CONFIG).apply({"params": PARAMS}, vectors))


def sum_bits(arithmetic, x):
    """Off by a unit of SUM_BITS."""
    return arithmetic.off(x, 2.0**-SUM_BITS)


def fixed_point_norm(arithmetic, vectors, first):
    """The embeddings' norm with positions from `first`, each step off by a unit of its fraction bits."""
    first += CONFIG.position_offset
    x = sum_bits(arithmetic, vectors + PLACES[first : first + vectors.shape[1]].astype(np.float64))
    centred = x - sum_bits(arithmetic, arithmetic.off(x.mean(-1, keepdims=True), 2.0**-20 * np.abs(x).sum(-1).max()))
    variance = arithmetic.off((centred**2).mean(-1, keepdims=True) + CONFIG.layer_norm_epsilon, 2.0**-VARIANCE_BITS)
    scale = arithmetic.off(arithmetic.rsqrt(variance), 2.0**-SCALE_BITS + 2.0**-14 * variance**-0.5)
    return arithmetic.off(centred * scale, 2.0**-HIDDEN_BITS)


def fixed_point_texts(arithmetic):
    return (
        fixed_point_norm(arithmetic, sum_bits(arithmetic, WORDS[IDS].astype(np.float64)), PROMPT_TOKENS)
        * KEEP[..., None]
    )


def fixed_point_prompts(arithmetic):
    shifts = arithmetic.off(SHIFTS.astype(np.float64), 2.0**-SHIFT_BITS) * arithmetic.given(WORDS.std())
    initial = sum_bits(arithmetic, WORDS[IDS[0, :PROMPT_TOKENS]].astype(np.float64))
    return fixed_point_norm(arithmetic, initial + sum_bits(arithmetic, shifts), 0)


def largest_error(compute):
    """Of 64 results whose every operation is off by some of its bound."""
    exact, rng = compute(Arithmetic()), np.random.default_rng(3)
    return np.abs(np.stack([compute(Arithmetic(rng)) for _ in range(64)]) - exact).max()


def test_plaintext_embeds_as_the_model_does():
    np.testing.assert_allclose(embed_texts(PlaintextRuntime()), flax_texts(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(embed_prompts(PlaintextRuntime()), flax_prompts(), rtol=0, atol=1e-5)


def test_a_look_up_is_exact(runtime):
    """Every element is the table's own, rounded to fixed point; the control: one unit more would be noticed."""
    made = private_embedding(runtime)
    (found,) = opened(runtime, look_up(runtime, made, IDS))
    exact = np.rint(encoded_words(PARAMS, range(CONFIG.vocab_size))[IDS.ravel()].astype(np.float64) / ULP) * ULP
    np.testing.assert_array_equal(found, exact.astype(np.float32))
    assert (found + ULP != exact.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("embed", "fixed_point", "expected"),
    [
        (embed_texts, fixed_point_texts, flax_texts()),
        (embed_prompts, fixed_point_prompts, flax_prompts()),
    ],
    ids=["texts", "prompts"],
)
def test_embeddings_match_plaintext(runtime, embed, fixed_point, expected):
    np.testing.assert_allclose(fixed_point(Arithmetic()), expected, rtol=0, atol=1e-5)
    tolerance, found = largest_error(fixed_point), embed(runtime)
    assert np.abs(found - expected).max() <= tolerance
    assert tolerance < 2e-2, "the tolerance would not notice another token"


def test_padding_becomes_zero(runtime):
    """To a unit for the truncation of the scale, and one for that of the product; tokens do not."""
    found = np.abs(embed_texts(runtime))
    assert found[KEEP == 0].max() <= 2 * 2.0**-HIDDEN_BITS
    assert found[KEEP == 1].max(-1).min() > 0.5


def test_parts_of_the_vocabulary_and_of_the_tokens_give_the_same(runtimes, monkeypatch):
    monkeypatch.setattr(embedding, "TABLE_ELEMENTS", 20 * CONFIG.width)
    monkeypatch.setattr(embedding, "ONE_HOT_ELEMENTS", 4 * 20)
    runtime = runtimes(ABY3)
    made = private_embedding(runtime)
    assert [len(rows) for rows, _ in made._words] == [20, 20, 13]
    found = look_up(runtime, made, IDS)
    assert [part.spec.shape[0] for part in found] == [4, 4, 2]
    exact = np.rint(encoded_words(PARAMS, range(CONFIG.vocab_size))[IDS.ravel()].astype(np.float64) / ULP) * ULP
    np.testing.assert_array_equal(np.concatenate(opened(runtime, found)), exact.astype(np.float32))


OUTPUTS = TEXTS * TOKENS * CONFIG.width
INPUTS = TEXTS * TOKENS * CONFIG.vocab_size + CONFIG.vocab_size * CONFIG.width
# Sums over the parties: the product reshares its result under ABY3, and opens both inputs under SEMI2K.
LOOK_UP_COSTS = {ABY3: (24 * OUTPUTS, 3), SEMI2K_2: (16 * INPUTS, 2), SEMI2K_3: (48 * INPUTS, 6)}


def test_a_look_up_costs_one_product(runtime):
    which = (runtime.protocol, runtime.parties)
    made = private_embedding(runtime)
    chosen = shared(runtime, one_hot(IDS.ravel(), range(CONFIG.vocab_size)))
    _, cost = cost_of(runtime, lambda: look_up_shared(made, chosen))
    assert cost == LOOK_UP_COSTS[which]


def look_up_shared(made, chosen):
    return made.look_up(range(IDS.size), lambda *_: chosen)


# Sums over the parties of (bytes, sends): layer norm and padding of [2, 5, 21]; scale and layer norm of [2, 3, 21].
REST_COSTS = {ABY3: ((33_200, 181), (26_232, 181)), SEMI2K_2: ((24_500, 70), (19_548, 70))}


@pytest.mark.parametrize("which", REST_COSTS)
def test_the_rest_of_an_embedding_costs_what_it_did(runtimes, which):
    """Pinned: a change of a byte or a message wants a reason."""
    runtime = runtimes(which)
    made = private_embedding(runtime)
    words, keep = look_up(runtime, made, IDS), shared(runtime, KEEP)
    _, texts = cost_of(runtime, lambda: made.embed(words, keep, PROMPT_TOKENS))
    around = made.prompts(look_up(runtime, made, IDS[0, :PROMPT_TOKENS]))
    shifts = shared(runtime, to_storage(SHIFTS, SHIFT_BITS))
    _, prompts = cost_of(runtime, lambda: around.embed(shifts))
    assert (texts, prompts) == REST_COSTS[which]


def test_nothing_is_opened(runtime):
    embed_texts(runtime)
    embed_prompts(runtime)
    audits = [p.audit for p in runtime.programs if p.name in ("look_up", "embed", "embed_prompts")]
    assert {audit.program for audit in audits} == {"look_up", "embed", "embed_prompts"}
    assert not any(audit.openings for audit in audits)


def test_word_embeddings_are_freed(runtimes):
    runtime = runtimes(SEMI2K_2)
    made = private_embedding(runtime)
    ((_, table),) = made._words
    made.free_words()
    for party in runtime._parties:
        with pytest.raises(Exception, match=table.name):
            party.spu.get_var(table.name)


def test_positions_follow_the_configuration():
    """The control for `places`: a model that counts from another position embeds differently."""
    moved = flax_texts(replace(CONFIG, position_offset=0))
    assert np.abs(embed_texts(PlaintextRuntime()) - moved).max() > 0.1
