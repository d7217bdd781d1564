"""Texts as the model reads them: drawn, tokenized, padded, cut; and every fault of a data file by its line."""

import json

import numpy as np
import pytest

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.tuning.task import Example, TaskTokenizer, Text, draw_few_shot, read_examples, read_texts, template_fields

CONFIG = load_config(DEMO_CONFIG)
SECTION = CONFIG.task
LABELS = list(SECTION.labels)


@pytest.fixture(scope="module")
def tokenizer():
    return TaskTokenizer(CONFIG.model.folder / "tokenizer.json")


def _write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_examples_are_read_in_order(tmp_path):
    path = _write(tmp_path / "x", {"text": "a", "label": LABELS[1]}, {"text": "b", "label": LABELS[0], "more": 1})
    assert read_examples(path, SECTION) == [Example({"text": "a"}, 1), Example({"text": "b"}, 0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is no object"),
        ({"text": "a"}, "line 2 has no `label`"),
        ({"text": "a", "label": "meh"}, f"line 2 has label 'meh', but task.labels has only {', '.join(LABELS)}"),
        ({"label": LABELS[0]}, "line 2 has no text `text`"),
        ({"text": 7, "label": LABELS[0]}, "line 2: `text` is 7, but must be a text"),
        ({"text": " \t", "label": LABELS[0]}, "line 2: `text` is blank: leave that text out"),
        ({"text": "half \ud83d", "label": LABELS[0]}, r"line 2: `text` holds '\\ud83d', half of a character"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    path = _write(tmp_path / "x", {"text": "a", "label": LABELS[1]}, row)
    with pytest.raises(ConfigError, match=message):
        read_examples(path, SECTION)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is no object"),
        ({"label": LABELS[0]}, "line 2 has no text `text`"),
        ({"text": ""}, "line 2: `text` is blank"),
    ],
)
def test_texts_need_no_label_but_all_else(tmp_path, row, message):
    path = _write(tmp_path / "x", {"text": "a"}, {"text": "b", "label": "none of them"})
    assert read_texts(path, SECTION) == [Text({"text": "a"}), Text({"text": "b"})]
    with pytest.raises(ConfigError, match=message):
        read_texts(_write(tmp_path / "y", {"text": "a"}, row), SECTION)


def test_one_of_several_fields_may_be_blank(tmp_path):
    section = SECTION.model_copy(update={"template": "{title} {text} : {mask}"})
    path = _write(tmp_path / "x", {"title": "", "text": "a"}, {"title": "", "text": " "})
    with pytest.raises(ConfigError, match="line 2: `title` and `text` are blank: leave that text out"):
        read_texts(path, section)
    assert read_texts(_write(path, {"title": "", "text": "a"}), section) == [Text({"title": "", "text": "a"})]


def test_a_character_of_two_halves_is_one(tmp_path):
    assert read_texts(_write(tmp_path / "x", {"text": "\U0001f600"}), SECTION) == [Text({"text": "\U0001f600"})]


def test_blank_lines_and_a_byte_order_mark_are_no_fault(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"text": "a\u2028b", "label": LABELS[0]}, ensure_ascii=False).encode() + b"\n\n"
    )
    assert read_examples(path, SECTION) == [Example({"text": "a\u2028b"}, 0)]


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes('{"text": "caf\xe9"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 13"):
        read_examples(tmp_path / "latin", SECTION)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_examples(tmp_path, SECTION)


def test_a_text_with_a_mask_of_its_own_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="reads 2 mask tokens"):
        tokenizer.encode([Example({"text": "the <mask> was good"}, 0)], SECTION)


@pytest.mark.parametrize("text", ["the <mask> was good", "the waiter was polite and the soup was superb " * 8])
def test_a_text_that_does_not_fit_is_named_by_its_line(tokenizer, tmp_path, text):
    """And not quoted: texts are the data owner's secret."""
    path = _write(tmp_path / "x", {"text": "a"}, {"text": text})
    with pytest.raises(ConfigError, match="x, line 2 (reads 2 mask tokens|has 77 tokens)") as caught:
        tokenizer.encode(read_texts(path, SECTION), SECTION)
    assert "was" not in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no examples"):
        read_examples(_write(tmp_path / "x"), SECTION)


def test_few_shot_sets_are_balanced_disjoint_and_decided_by_the_seed():
    pool = read_examples(SECTION.pool, SECTION)
    training, validation = draw_few_shot(pool, SECTION, 3)
    for examples, shots in ((training, SECTION.shots), (validation, SECTION.validation_shots)):
        assert [sum(e.label == n for e in examples) for n in range(len(LABELS))] == [shots] * len(LABELS)
    texts = [e.fields["text"] for e in training + validation]
    assert len(set(texts)) == len(texts)
    assert draw_few_shot(pool, SECTION, 3) == (training, validation)
    assert draw_few_shot(pool, SECTION, 4)[0] != training


def test_a_class_without_enough_examples_is_named():
    pool = [Example({"text": "a"}, 0)] * 99
    with pytest.raises(ConfigError, match=f"has 0 examples of class '{LABELS[1]}'"):
        draw_few_shot(pool, SECTION, 0)


@pytest.mark.parametrize(
    "template",
    [
        "no field",
        "{mask}",
        "{text",
        "{}",
        "{text!r} {mask}",
        "{text:>9} {mask}",
        "{a b}",
        "{text} {mask} {mask}",
        "{text} {label}",
    ],
)
def test_what_is_no_template_is_refused(template):
    with pytest.raises(ConfigError, match=r"task\.template"):
        template_fields(template)


def test_a_template_may_have_several_fields():
    assert template_fields("{text} ? {mask} , {text_pair}") == ["text", "text_pair"]


def test_tokens_are_padded_and_the_mask_is_marked(tokenizer):
    text = read_examples(SECTION.pool, SECTION)[0]
    batch = tokenizer.encode([text], SECTION)
    assert batch.token_ids.shape == batch.padding_mask.shape == batch.mask_row.shape == (1, SECTION.max_tokens)
    length = int(batch.padding_mask.sum())
    np.testing.assert_array_equal(batch.padding_mask[0], np.arange(SECTION.max_tokens) < length)
    assert (batch.token_ids[0, length:] == tokenizer.padding_id).all()
    assert batch.mask_row.sum() == 1
    assert batch.token_ids[0, batch.mask_row[0].argmax()] == 4


def test_a_long_text_is_refused_or_cut_from_its_end(tokenizer):
    words = "the waiter was polite and the soup was superb " * 8
    example = Example({"text": words}, 0)
    with pytest.raises(ConfigError, match=r"exceeds task.max_tokens .* set task.truncate: true"):
        tokenizer.encode([example], SECTION)
    cut = tokenizer.encode([example], SECTION.model_copy(update={"truncate": True}))
    assert cut.mask_row.sum() == 1
    whole = tokenizer.encode([example], SECTION.model_copy(update={"max_tokens": 200}))
    kept = int(cut.mask_row[0].argmax()) - 4
    np.testing.assert_array_equal(cut.token_ids[0, :kept], whole.token_ids[0, :kept])
    assert cut.padding_mask.sum() >= SECTION.max_tokens - 3  # whole words are cut


def test_a_template_longer_than_the_limit_is_refused_even_when_cutting(tokenizer):
    section = SECTION.model_copy(
        update={"truncate": True, "max_tokens": 4, "template": "the soup was hot {text} {mask}"}
    )
    with pytest.raises(ConfigError, match="raise it$"):
        tokenizer.encode([Example({"text": "a b"}, 0)], section)


def test_label_words_are_single_tokens(tokenizer):
    ids = tokenizer.label_word_ids(SECTION.labels)
    assert len(set(ids)) == len(LABELS)
    with pytest.raises(ConfigError, match=r"the word 'incomprehensible' of 'x' is \d+ tokens \(.+ .+\)"):
        tokenizer.label_word_ids({"x": "incomprehensible"})
    word = SECTION.labels[LABELS[0]]
    with pytest.raises(ConfigError, match="'x' and 'y' have the same word"):
        tokenizer.label_word_ids({"x": word, "y": word})


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path / "tokenizer.json", tmp_path / "absent.json"):
        with pytest.raises(ConfigError, match="is no tokenizer"):
            TaskTokenizer(path)
