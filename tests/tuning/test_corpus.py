"""Batches of public text: which lines, how long, behind which prompts, and which word is hidden."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from secp_spu.config import ConfigError
from secp_spu.model import EncoderConfig
from secp_spu.tuning.corpus import HELD_OUT, Corpus

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")
PAD, MASK, CLS, SEP = 0, 2, 3, 4
COUNT = HELD_OUT + 700
TOKENS = 128
PROMPT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lines that begin with a word of their own, so that a row tells which it is."""
    folder = tmp_path_factory.mktemp("corpus")
    names = [f"n{i}" for i in range(COUNT)]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *names, "a", "b"])}
    for name, without in (("tokenizer.json", ""), ("no-mask.json", "[MASK]")):
        tokenizer = Tokenizer(models.WordLevel({w: i for w, i in vocabulary.items() if w != without}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        ends = [("[CLS]", CLS), ("[SEP]", SEP)]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
        tokenizer.save(str(folder / name))
    rng = np.random.default_rng(0)
    lines = [" ".join([name, *rng.choice(["a", "b"], rng.integers(1, 40))]) for name in names]
    (folder / "lines.txt").write_text("\n".join([*lines, "", lines[3]]) + "\n", encoding="utf-8")
    return folder


def open_corpus(folder, *, tokenizer="tokenizer.json", lines="lines.txt", **changes):
    sizes = (COUNT + len(SPECIAL) + 2, 8, 1, 1, 8, 64, 0, 2, 1e-5)
    choices = {"max_tokens": 32, "tokens": TOKENS, "prompt_tokens": PROMPT, "hide_word": False, "seed": 0}
    return Corpus(folder / lines, folder / tokenizer, EncoderConfig(*sizes), **(choices | changes))


@pytest.fixture
def corpus(folder):
    return open_corpus(folder)


def rows_of(texts):
    """Of each row: its prompt's tokens, which may be any, and the text's."""
    ids, mask = np.asarray(texts.ids), np.asarray(texts.mask)
    rows = [row[: int(kept.sum())].tolist() for row, kept in zip(ids, mask, strict=True)]
    starts = [len(row) - 1 - row[::-1].index(CLS) for row in rows]
    return [(row[:start], row[start:]) for row, start in zip(rows, starts, strict=True)]


def epoch_of(corpus):
    """All batches of the first epoch: as many as there are before a line comes again."""
    batches, seen = [], set()
    for number in range(1000):
        texts = corpus.batch(number)
        names = {text[1] for _, text in rows_of(texts)}
        if names & seen:
            return batches
        seen |= names
        batches.append(texts)
    raise AssertionError("an epoch has no end")


def test_a_line_is_a_row_once_an_epoch(corpus):
    assert corpus.count == COUNT, "empty lines and those that are there already do not count"
    batches = epoch_of(corpus)
    names = [text[1] for texts in batches for _, text in rows_of(texts)]
    assert len(names) == len(set(names))
    assert len(names) > 0.9 * (COUNT - HELD_OUT)
    later = [corpus.batch(number) for number in range(len(batches), 2 * len(batches))]
    assert [t.ids.shape for t in later] != [t.ids.shape for t in batches], "another epoch, another order"


def test_batches_have_one_length_and_a_bound(corpus):
    shapes = {texts.ids.shape for texts in epoch_of(corpus)}
    assert shapes == {(8, 16), (5, 24), (4, 32), (2, 48)}
    assert all(rows * length <= TOKENS for rows, length in shapes)
    for texts in epoch_of(corpus):
        longest = int(np.asarray(texts.mask).sum(-1).max())
        assert longest <= texts.ids.shape[1] < longest + 16


def test_padding_is_padding(corpus):
    texts = corpus.batch(0)
    ids, mask = np.asarray(texts.ids), np.asarray(texts.mask)
    assert (ids[mask == 0] == PAD).all()
    assert (np.diff(mask, axis=1) <= 0).all(), "and comes last"


def test_half_of_the_lines_stand_behind_random_tokens(corpus, folder):
    prompts = [prompt for texts in epoch_of(corpus) for prompt, _ in rows_of(texts)]
    lengths = np.array([len(prompt) for prompt in prompts])
    assert set(lengths.tolist()) == {0, PROMPT}
    assert 0.4 < (lengths == PROMPT).mean() < 0.6
    assert len({tuple(prompt) for prompt in prompts}) > len(prompts) / 3
    plain = open_corpus(folder, prompt_tokens=0)
    assert all(not prompt for texts in epoch_of(plain) for prompt, _ in rows_of(texts))


def test_held_out_lines_are_never_trained_on(corpus):
    held_out = [text[1] for texts in corpus.held_out() for _, text in rows_of(texts)]
    assert len(set(held_out)) == len(held_out) == HELD_OUT
    behind = [row for texts in corpus.held_out(prompted=True) for row in rows_of(texts)]
    assert {text[1] for _, text in behind} == set(held_out)
    assert all(len(prompt) == PROMPT for prompt, _ in behind)
    trained = {text[1] for texts in epoch_of(corpus) for _, text in rows_of(texts)}
    assert not trained & set(held_out)


def test_a_number_and_a_seed_decide_a_batch(corpus, folder):
    for number in (200, 3, 0):
        again = open_corpus(folder).batch(number)
        for name in ("ids", "mask", "place"):
            np.testing.assert_array_equal(getattr(corpus.batch(number), name), getattr(again, name))
    assert {text[1] for _, text in rows_of(open_corpus(folder, seed=1).held_out()[0])} != {
        text[1] for _, text in rows_of(corpus.held_out()[0])
    }


def test_the_place_is_a_words_and_is_hidden_where_asked(corpus, folder):
    for opened, hidden in ((corpus, False), (open_corpus(folder, hide_word=True), True)):
        for number in range(30):
            texts = opened.batch(number)
            place = np.asarray(texts.place)
            assert (place.sum(-1) == 1).all()
            at = np.asarray(texts.ids)[place == 1]
            assert (at == MASK).all() if hidden else not set(at.tolist()) & {PAD, MASK, CLS, SEP}
            assert (np.asarray(texts.mask)[place == 1] == 1).all()
            for (prompt, _), row in zip(rows_of(texts), place, strict=True):
                assert row.argmax() > len(prompt)


def test_long_lines_are_cut(folder):
    short = open_corpus(folder, max_tokens=8)
    texts = [text for number in range(20) for _, text in rows_of(short.batch(number))]
    assert max(map(len, texts)) == 8
    assert all(text[-1] == SEP for text in texts)


def test_bad_input_says_what_is_wrong(folder):
    with pytest.raises(ConfigError, match="no-mask.json has no mask token, which the model's masked-LM head is for"):
        open_corpus(folder, tokenizer="no-mask.json", hide_word=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_corpus(folder, lines="none.txt")
    (folder / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        open_corpus(folder, lines="latin.txt")
    (folder / "short.txt").write_text("n1 a\n" * 1000)
    with pytest.raises(ConfigError, match=f"has 1 different lines, needed are {HELD_OUT + 8}"):
        open_corpus(folder, lines="short.txt")
