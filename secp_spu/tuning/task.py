"""Reads files of texts, labelled or not, and makes token ids, rows for the model and label numbers of them."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened

import numpy as np
import numpy.typing as npt

from secp_spu.config import TaskSection
from secp_spu.errors import ConfigError
from secp_spu.files import NotUtf8, read_utf8
from secp_spu.model.hub.tokenizer import mask_token, open_tokenizer
from secp_spu.trees import JsonObject


@dataclass(frozen=True)
class Text:
    """One text: the template's fields, and whatever else its line holds; for messages where it stands."""

    fields: Mapping[str, str]
    others: Mapping[str, object] = field(default_factory=dict, compare=False, kw_only=True)
    where: str = field(default="a text", compare=False, kw_only=True)


@dataclass(frozen=True)
class Example(Text):
    """One labelled text: the template's fields, and the label's number."""

    label: int


@dataclass(frozen=True)
class TokenBatch:
    """Padded texts.

    Attributes:
        token_ids: [texts, tokens] int32.
        padding_mask: 1 for tokens, 0 for padding [texts, tokens] float32.
        mask_row: 1 at the mask token, or for a decoder at the last token, 0 elsewhere [texts, tokens] float32; all zero
            where a template has no mask.
    """

    token_ids: npt.NDArray[np.int32]
    padding_mask: npt.NDArray[np.float32]
    mask_row: npt.NDArray[np.float32]


def read_examples(path: Path, section: TaskSection) -> list[Example]:
    """The examples of a JSON-lines file.

    Raises: ConfigError naming the line: not JSON, no label, a label without a label word, a missing field.
    """
    labels = list(section.labels)
    examples = []
    for where, content in _objects(path):
        if "label" not in content:
            raise ConfigError(f"{where} has no `label`: a line holds an object with a label and the template's fields")
        label = content["label"]
        if not isinstance(label, str) or label not in labels:
            raise ConfigError(f"{where} has label {label!r}, but task.labels has only {', '.join(labels)}")
        examples.append(Example(_fields(content, section.template, where), labels.index(label), where=where))
    return examples


def read_texts(path: Path, section: TaskSection) -> list[Text]:
    """The texts of a JSON-lines file; labels in it are not looked at.

    Raises: ConfigError naming the line: not JSON, a missing field.
    """
    texts = []
    for where, content in _objects(path):
        fields = _fields(content, section.template, where)
        others = {name: value for name, value in content.items() if name not in fields}
        texts.append(Text(fields, where=where, others=others))
    return texts


def texts_of(objects: Iterable[str | Mapping[str, object]], section: TaskSection) -> list[Text]:
    """Texts from objects with the template's fields, or from plain strings where it has one field.

    Raises: ConfigError naming the text: a missing field, or a string for a template of several; for no texts.
    """
    names, texts = template_fields(section.template), []
    if isinstance(objects, str | bytes | Mapping) or not isinstance(objects, Iterable):
        raise ConfigError(f"`texts` is a {type(objects).__name__}, but must be a list of strings or of objects")
    for number, content in enumerate(objects):
        where = f"`texts`[{number}]"
        if not isinstance(content, str | Mapping):
            raise ConfigError(f"{where} is {shortened(content)}, but must be a string, or an object with the fields")
        if isinstance(content, str):
            if len(names) > 1:
                raise ConfigError(f"{where} is a string, but task.template has fields {', '.join(names)}: name them")
            content = {names[0]: content}
        texts.append(Text(_fields(content, section.template, where), where=where))
    if not texts:
        raise ConfigError("`texts` is empty, but must hold at least one text")
    return texts


def _objects(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """The objects of a JSON-lines file, each with the words for where it stands; at least one."""
    empty = True
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f'{where} is no object: a line holds one, such as {{"text": ...}}')
        empty = False
        yield where, content
    if empty:
        raise ConfigError(f"{path} holds no examples")


def _read_text(path: Path) -> str:
    try:
        return read_utf8(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except NotUtf8 as error:
        raise ConfigError(f"{path} is {error}") from error


def _fields(content: Mapping[str, object], template: str, where: str) -> dict[str, str]:
    """The template's fields of a text.

    Raises: ConfigError for a field that is missing, is no text, or holds half a character; and if all are blank.
    """
    fields = {}
    for name in template_fields(template):
        if name not in content:
            raise ConfigError(f"{where} has no text `{name}`, which task.template wants")
        value = content[name]
        if not isinstance(value, str):
            raise ConfigError(f"{where}: `{name}` is {shortened(value)}, but must be a text")
        if half := next((character for character in value if "\ud800" <= character <= "\udfff"), None):
            raise ConfigError(
                f"{where}: `{name}` holds {half!r}, half of a character that was cut in two: take it out, or put the "
                "whole character there"
            )
        fields[name] = value
    if not any(value.strip() for value in fields.values()):
        names = " and ".join(f"`{name}`" for name in fields)
        raise ConfigError(f"{where}: {names} {'is' if len(fields) == 1 else 'are'} blank: leave that text out")
    return fields


def template_fields(template: str) -> list[str]:
    """The names of the examples' fields in a template, {mask} left out.

    Raises: ConfigError if it is no template or has no field.
    """
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ConfigError(f"task.template {template!r}: {error}") from error
    names = [str(name) for _, name, _, _ in parts]
    fields = [name for name in names if name != "mask"]
    plain = all(name.isidentifier() and not spec and not conversion for _, name, spec, conversion in parts if name)
    if not fields or not plain or not all(names) or names.count("mask") > 1 or "label" in names:
        raise ConfigError(
            f"task.template {template!r} must name fields of the examples in plain braces, such as {{text}}, and "
            "{mask} once at most; the label is not for the model to read"
        )
    return fields


def draw_few_shot(pool: Sequence[Example], section: TaskSection, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and validation examples, as many of each class, none in both.

    Raises: ConfigError naming a class that is empty or too small.
    """
    rng = np.random.default_rng(seed)
    training, validation = [], []
    wanted = section.shots + section.validation_shots
    for number, label in enumerate(section.labels):
        of_label = [example for example in pool if example.label == number]
        if len(of_label) < wanted:
            raise ConfigError(
                f"{section.pool} has {len(of_label)} examples of class {label!r}, but task.shots + "
                f"task.validation_shots need {wanted}"
            )
        order = rng.permutation(len(of_label))[:wanted]
        training += [of_label[i] for i in order[: section.shots]]
        validation += [of_label[i] for i in order[section.shots :]]
    return training, validation


class TaskTokenizer:
    """A Hugging Face tokenizer.json, used for one task.

    Args:
        path: of tokenizer.json.
        causal: a decoder reads the texts: the mask, with which its template ends, is what comes next.
    Raises: ConfigError if the file is missing, is no tokenizer, or has no padding token.
    """

    def __init__(self, path: Path, *, causal: bool = False):
        self._causal = causal
        self._tokenizer, padding = open_tokenizer(path)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._mask_token = mask_token(self._tokenizer)
        self._mask_id: int = self._tokenizer.token_to_id(self._mask_token) if self._mask_token else -1
        self.padding_id: int = self._tokenizer.token_to_id(padding)

    def label_word_ids(self, words: Mapping[str, str]) -> list[int]:
        """The token of each label's word.

        Raises: ConfigError naming a word that is no single token, with its pieces, or two labels with one token.
        """
        ids: dict[int, str] = {}
        for label, word in words.items():
            pieces = [self._tokenizer.encode(text, add_special_tokens=False) for text in (f" {word}", word)]
            single = [encoding.ids[0] for encoding in pieces if len(encoding.ids) == 1]
            if not single:
                raise ConfigError(
                    f"task.labels: the word {word!r} of {label!r} is {len(pieces[0].ids)} tokens "
                    f"({' '.join(pieces[0].tokens)}), but a label word must be one"
                )
            if single[0] in ids:
                raise ConfigError(f"task.labels: {ids[single[0]]!r} and {label!r} have the same word {word!r}")
            ids[single[0]] = label
        return list(ids)

    def word_ids(self, text: str) -> list[int]:
        """The tokens of a text, without those that mark its beginning and end."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, texts: Sequence[Text], section: TaskSection) -> TokenBatch:
        """Texts in the template, padded to `max_tokens`.

        Raises: ConfigError naming a text that is too long, unless the task says to truncate, or that holds a mask
            token; and for a decoder's template that does not end with the mask.
        """
        if self._causal and not section.template.endswith("{mask}"):
            raise ConfigError(
                f"task.template is {section.template!r}, but a decoder says what comes next: end it with {{mask}}"
            )
        return self._pad([self._encode_one(text, section) for text in texts], section.max_tokens)

    def encode_descriptions(self, section: TaskSection) -> TokenBatch:
        """The labels' describing texts, padded to the longest of them."""
        ids = [self._tokenizer.encode(text).ids for text in section.labels.values()]
        return self._pad(ids, max(len(row) for row in ids))

    def _encode_one(self, text: Text, section: TaskSection) -> list[int]:
        ids = self._cut(text.fields, section) if section.truncate else self._fill(text.fields, section)
        if self._causal and not ids:
            raise ConfigError(f"{text.where} has no token for a decoder to go on from: put words into task.template")
        masks = ids.count(self._mask_id)
        if not self._causal and "{mask}" in section.template and (self._mask_token is None or masks != 1):
            raise ConfigError(
                f"{text.where} reads {masks} mask tokens, but the template's must be the only one: "
                f"take {self._mask_token} out of the texts, or a tokenizer that has it"
            )
        if len(ids) > section.max_tokens:
            remedy = "raise it" if section.truncate else "raise it, or set task.truncate: true"
            raise ConfigError(
                f"{text.where} has {len(ids)} tokens, which exceeds task.max_tokens ({section.max_tokens}): {remedy}"
            )
        return ids

    def _cut(self, fields: Mapping[str, str], section: TaskSection) -> list[int]:
        """The tokens of a text whose longest fields lose their ends, until it fits or has nothing left to lose."""
        ids = self._fill(fields, section)
        while len(ids) > section.max_tokens:
            longest = max(fields, key=lambda name: len(fields[name]))
            shorter = self._without_last_tokens(fields[longest], len(ids) - section.max_tokens)
            if shorter == fields[longest]:
                break
            fields = {**fields, longest: shorter}
            ids = self._fill(fields, section)
        return ids

    def _fill(self, fields: Mapping[str, str], section: TaskSection) -> list[int]:
        template = section.template
        if self._causal:  # the space before a word is the word's own
            template = template.removesuffix("{mask}").rstrip()
        ids: list[int] = self._tokenizer.encode(template.format(**fields, mask=self._mask_token)).ids
        return ids

    def _without_last_tokens(self, text: str, count: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text[: offsets[-count][0]].rstrip() if count < len(offsets) else ""

    def _pad(self, rows: Sequence[Sequence[int]], length: int) -> TokenBatch:
        ids = np.full((len(rows), length), self.padding_id, np.int32)
        mask = np.zeros((len(rows), length), np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        if self._causal:
            return TokenBatch(ids, mask, mask - np.pad(mask[:, 1:], ((0, 0), (0, 1))))
        return TokenBatch(ids, mask, (ids == self._mask_id).astype(np.float32))
