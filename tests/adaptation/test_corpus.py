"""Batches of a corpus, told apart by their tokens: lines are random, so that no two have the same."""

import hashlib
import json

import numpy as np
import pytest
from words import CLS, MASK, PAD, SEP, VOCABULARY, write_lines, write_tokenizer

from secp_spu.adaptation.corpus import HELD_OUT, LENGTHS, Corpus
from secp_spu.errors import ConfigError
from secp_spu.model import TransformerConfig

LINES, PROMPT, TOKENS, LONGEST = 1100, 5, 112, 36
CONFIG = TransformerConfig(
    vocab_size=VOCABULARY,
    width=8,
    layers=1,
    heads=1,
    intermediate=8,
    max_positions=64,
    position_offset=0,
    type_vocab_size=2,
    layer_norm_epsilon=1e-5,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of 7 to 39 words, with [CLS] and [SEP] 9 to 41 tokens: some are cut to LONGEST."""
    folder = tmp_path_factory.mktemp("corpus")
    return write_lines(folder / "lines.txt", LINES, words=(7, 40)), write_tokenizer(folder / "tokenizer.json")


def make(files, config=CONFIG, **changes):
    arguments = {"max_tokens": LONGEST, "tokens": TOKENS, "prompt_tokens": PROMPT, "hide_word": False, "seed": 3}
    return Corpus(*files, config, **{**arguments, **changes})


def rows(batches):
    """Of every text: its tokens without padding, where its own begin, and the compared one."""
    for texts in batches:
        for ids, mask, place in zip(*map(np.asarray, (texts.ids, texts.mask, texts.place)), strict=True):
            size = int(mask.sum())
            assert (mask[:size] == 1).all()
            assert (ids[size:] == PAD).all()
            assert sorted(place) == [0] * (len(place) - 1) + [1]
            start = int(np.flatnonzero(ids[:size] == CLS)[-1])  # a random prompt may hold others
            yield ids[:size], start, int(place.argmax())


def lines_of(batches):
    """Of every text the tokens without a prompt."""
    return [tuple(ids[start:].tolist()) for ids, start, _ in rows(batches)]


def epoch(corpus, first=0):
    """Its batches, from this number on: the next epoch begins with a line that was there."""
    seen, batches = set(), []
    while not seen & (lines := set(lines_of([batch := corpus.batch(first + len(batches))]))):
        seen |= lines
        batches.append(batch)
    return batches


def test_an_epoch_has_nearly_every_line_once(files):
    """Of a length, those that do not fill a batch are left out; another epoch has another order."""
    corpus = make(files)
    assert corpus.count == LINES
    first = epoch(corpus)
    second = epoch(corpus, len(first))
    left_out = sum(TOKENS // length - 1 for length in LENGTHS if length <= 48)
    for batches in (first, second):
        lines = lines_of(batches)
        assert len(set(lines)) == len(lines)
        assert LINES - HELD_OUT - left_out <= len(lines) <= LINES - HELD_OUT
    assert lines_of(first[:1]) != lines_of(second[:1])


def test_texts_of_a_batch_have_one_length_and_fill_its_tokens(files):
    places = {}
    for texts in epoch(make(files)):
        count, length = texts.ids.shape
        assert length in LENGTHS
        assert count == TOKENS // length
        shorter = max((one for one in LENGTHS if one < length), default=0)
        sizes = np.asarray(texts.mask).sum(1)
        assert ((shorter < sizes) & (sizes <= length)).all()
        places[length] = places.get(length, 0) + 1
    assert set(places) == {16, 24, 32, 48}


def test_long_lines_are_cut_before_their_last_token(files):
    lines = lines_of(epoch(make(files)))
    assert max(map(len, lines)) == LONGEST
    assert all((line[0], line[-1]) == (CLS, SEP) for line in lines)


def test_a_batch_is_no_longer_than_the_model(files):
    """Where the next of the lengths is longer, texts are padded to the model's positions: beyond them are none."""
    longest = LONGEST + PROMPT
    short = TransformerConfig(**{**vars(CONFIG), "max_positions": longest + 2, "position_offset": 2})
    corpus = make(files, short)
    lengths = {texts.ids.shape[1] for texts in [*epoch(corpus), *corpus.held_out(prompted=True)]}
    assert lengths == {16, 24, 32, longest}


def test_a_text_longer_than_a_batch_has_one_of_its_own(files):
    assert {len(make(files, tokens=30).batch(i).ids) for i in range(40)} == {1}


def test_half_of_the_texts_stand_behind_a_random_prompt(files):
    found = list(rows(epoch(make(files))))
    starts = np.array([start for _, start, _ in found])
    assert set(starts) == {0, PROMPT}
    assert abs((starts > 0).mean() - 0.5) <= 2.5 / np.sqrt(len(starts))  # five deviations
    prompts = np.array([ids[:PROMPT] for ids, start, _ in found if start])
    assert len(np.unique(prompts, axis=0)) == len(prompts)
    counts = np.bincount(prompts.ravel(), minlength=VOCABULARY)
    assert len(counts) == VOCABULARY
    assert np.abs(counts / counts.mean() - 1).max() < 5 / np.sqrt(counts.mean())


def test_without_prompt_tokens_no_text_has_any(files):
    corpus = make(files, prompt_tokens=0)
    batches = [*epoch(corpus), *corpus.held_out(prompted=True)]
    assert all(np.asarray(texts.ids)[:, 0].tolist() == [CLS] * len(texts.ids) for texts in batches)


def test_held_out_lines_are_never_trained_on(files):
    corpus = make(files)
    plain, prompted = (list(rows(corpus.held_out(prompted=prompted))) for prompted in (False, True))
    assert {start for _, start, _ in plain} == {0}
    assert {start for _, start, _ in prompted} == {PROMPT}
    held_out = [tuple(ids.tolist()) for ids, _, _ in plain]
    assert len(set(held_out)) == HELD_OUT
    assert {tuple(ids[PROMPT:].tolist()) for ids, _, _ in prompted} == set(held_out)
    size = len(epoch(corpus))
    trained = lines_of(map(corpus.batch, range(3 * size)))
    assert len(set(trained)) == LINES - HELD_OUT, "three epochs have them all"
    assert not set(trained) & set(held_out)
    assert set(lines_of(make(files, seed=4).held_out())) != set(held_out)


def test_a_batch_follows_from_its_number_and_the_seed(files):
    """In a later epoch too, and whatever was asked for before."""
    one, other, third = make(files), make(files), make(files, seed=4)
    last = 3 * len(epoch(one))
    for number in (0, last, 7):
        for name in ("ids", "mask", "place"):
            wanted = getattr(one.batch(number), name)
            np.testing.assert_array_equal(getattr(other.batch(number), name), wanted)
    for found, wanted in zip(other.held_out(prompted=True), one.held_out(prompted=True), strict=True):
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.place, wanted.place)
    assert lines_of([third.batch(0)]) != lines_of([one.batch(0)])


def test_the_compared_word_is_any_word_of_the_text(files):
    """Never the one that marks beginning or end, nor padding, nor the prompt; hidden if asked for."""
    plain, hidden = make(files), make(files, hide_word=True)
    shown = epoch(plain)
    for batches in zip(shown, map(hidden.batch, range(len(shown))), strict=True):
        for (ids, start, place), (masked, _, same) in zip(*(rows([texts]) for texts in batches), strict=True):
            assert place == same
            assert start < place < len(ids) - 1
            assert masked[place] == MASK != ids[place]
            np.testing.assert_array_equal(np.delete(masked, place), np.delete(ids, place))
    shares = [(place - start - 1) / (len(ids) - start - 3) for ids, start, place in rows(shown)]
    assert (min(shares), max(shares)) == (0, 1)
    assert abs(np.mean(shares) - 0.5) < 0.05
    held_out = list(rows(hidden.held_out(prompted=True)))
    assert all(ids[place] == MASK and PROMPT < place < len(ids) - 1 for ids, _, place in held_out)


def test_either_name_of_the_mask_token_will_do(files, tmp_path):
    corpus = make((files[0], write_tokenizer(tmp_path / "tokenizer.json", mask="<mask>")), hide_word=True)
    assert all(ids[place] == MASK for ids, _, place in rows(corpus.held_out()))


def test_a_head_for_masked_words_needs_a_mask_token(files, tmp_path):
    without = files[0], write_tokenizer(tmp_path / "tokenizer.json", mask="[NONE]")
    make(without)
    message = r"tokenizer.json has no mask token, which the model's masked-LM head is for: known are <mask>, \[MASK\]"
    with pytest.raises(ConfigError, match=message):
        make(without, hide_word=True)


def test_the_digest_is_of_the_file_as_it_is(files, tmp_path):
    """Line ends make no other lines, but another file."""
    windows = tmp_path / "lines.txt"
    windows.write_bytes(files[0].read_bytes().replace(b"\n", b"\r\n"))
    one, other = make(files), make((windows, files[1]))
    assert one.digest == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert other.digest == hashlib.sha256(windows.read_bytes()).hexdigest()
    np.testing.assert_array_equal(one.batch(0).ids, other.batch(0).ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"`corpus` .*lines.txt cannot be read \(No such file or directory\): give a file with a text a line"),
        (b"\xff\xfe", "`corpus` .*lines.txt is not UTF-8 at byte 0: save it as UTF-8$"),
        (b"", "has 0 different lines, needed are 263"),
        (
            b" w1  w2\n\nw1  w2 \n" * 300,
            "has 1 different lines, needed are 263: 256 to measure with, and a batch; give",
        ),
    ],
    ids=["missing", "binary", "empty", "short"],
)
def test_a_file_that_will_not_do_is_named(files, tmp_path, content, message):
    path = tmp_path / "lines.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        make((path, files[1]))


def test_a_folder_is_no_corpus(files, tmp_path):
    with pytest.raises(ConfigError, match="`corpus` .* cannot be read .*: give a file with a text a line"):
        make((tmp_path, files[1]))


def test_a_length_that_leaves_no_word_is_refused(files):
    with pytest.raises(ConfigError, match=r"`max_tokens` 2 leaves no word of any line of `corpus` .*: raise it"):
        make(files, max_tokens=2)
    assert make(files, max_tokens=3).count


def test_as_few_lines_as_needed_will_do(files, tmp_path):
    least = HELD_OUT + TOKENS // LENGTHS[0]
    path = write_lines(tmp_path / "lines.txt", least, words=(7, 9))
    assert len(make((path, files[1])).batch(0).ids) == least - HELD_OUT
    write_lines(path, least - 1, words=(7, 9))
    with pytest.raises(ConfigError, match=f"has {least - 1} different lines, needed are {least}"):
        make((path, files[1]))


def test_a_tokenizer_that_will_not_do_is_named(files, tmp_path):
    with pytest.raises(ConfigError, match="absent.json is no tokenizer"):
        make((files[0], tmp_path / "absent.json"))
    small = TransformerConfig(**{**vars(CONFIG), "vocab_size": VOCABULARY - 1})
    with pytest.raises(ConfigError, match=f"gives token {VOCABULARY - 1}, the model has {VOCABULARY - 1}: take its"):
        make(files, small)
    content = json.loads(files[1].read_text())
    content["model"]["vocab"]["[MASK]"] = VOCABULARY
    (tmp_path / "mask.json").write_text(json.dumps(content))
    make((files[0], tmp_path / "mask.json"))
    with pytest.raises(ConfigError, match=f"mask.json gives token {VOCABULARY}, the model has {VOCABULARY}: take its"):
        make((files[0], tmp_path / "mask.json"), hide_word=True)


def test_lines_without_a_token_are_refused(files, tmp_path):
    """Of a tokenizer that drops what it reads, and marks neither beginning nor end."""
    changes = {"post_processor": None, "normalizer": {"type": "Replace", "pattern": {"String": "w1"}, "content": ""}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(files[1].read_text()) | changes))
    path = write_lines(tmp_path / "lines.txt", 300)
    make((path, tmp_path / "tokenizer.json"))
    path.write_text(path.read_text() + "w1\n")
    with pytest.raises(ConfigError, match="lines.txt has lines that .*tokenizer.json makes no token of: leave them"):
        make((path, tmp_path / "tokenizer.json"))
