"""Writes configurations to start from, as YAML whose comments are the descriptions of the keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Literal

import yaml

from secp_spu.config.keys import find_key
from secp_spu.config.section import PACKAGE_PREFIX

DEMO = Path(__file__).parent.parent / "demo" / "config.yaml"

WIDTH = 100
"""Characters of a comment's line."""

TemplateName = Literal["demo", "own-model", "cluster"]


@dataclass(frozen=True)
class Off:
    """A value that the template shows in a comment, so that it does nothing."""

    value: object


@dataclass(frozen=True)
class Template:
    """A configuration to start from.

    Attributes:
        about: what it is for, and how to run it.
        content: the keys.
        fill_in: what the reader has to put in place of some values, by dotted key.
    """

    about: str
    content: Mapping[str, object]
    fill_in: Mapping[str, str] = field(default_factory=dict)


def make_template(name: TemplateName) -> Template:
    """The template of a name."""
    return {"demo": _demo, "own-model": _own_model, "cluster": _cluster}[name]()


def render_template(template: Template) -> str:
    """The YAML of a template; each key follows a comment with the first sentence of its description."""
    about = [*template.about.split("\n"), "More about a key: secp-spu config --explain KEY, such as tuning.sigma."]
    return "\n".join([*_comment(about), "", *_lines(template, template.content, ())]) + "\n"


def _lines(template: Template, content: Mapping[str, object], place: tuple[str, ...]) -> Iterator[str]:
    indent = "  " * len(place)
    for name, value in content.items():
        dotted = ".".join((*place, name))
        key, section = find_key(dotted)
        if not place and isinstance(value, dict):
            yield ""
        yield from _comment([key.summary if key else "", template.fill_in.get(dotted, "")], indent)
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            if section and section.name == dotted:
                yield from _lines(template, value, (*place, name))
            else:
                yield from (f"{indent}  {_inline(inner)}: {_inline(found)}" for inner, found in value.items())
        elif isinstance(value, Off):
            yield f"{indent}# {name}: {_inline(value.value)}"
        else:
            yield f"{indent}{name}: {_inline(value)}"


def _comment(texts: Sequence[str], indent: str = "") -> list[str]:
    return [
        f"{indent}# {line}"
        for text in texts
        for line in wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def _inline(value: object) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.strip().removesuffix("...").strip()


def _demo() -> Template:
    content = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    for section, key in (("model", "folder"), ("task", "pool"), ("task", "test")):
        content[section][key] = f"{PACKAGE_PREFIX}secp_spu/demo/{content[section][key]}"
    return Template(
        "The demo: 8 labelled reports on visits tune a prompt for the tiny model that comes with secp-spu, and 12 more "
        "select it. It takes half a minute on two cores. Run it with: secp-spu tune --config FILE --out DIR",
        content,
    )


_MODEL = {
    "folder": "path/to/model",
    "head": "label_words",
    "activation": Off("gelu_tanh"),
}

_TASK = {
    "pool": "path/to/pool.jsonl",
    "test": "path/to/test.jsonl",
    "template": "{text} It was {mask} .",
    "labels": {"negative": "terrible", "positive": "great"},
    "shots": 16,
    "validation_shots": 16,
    "test_examples": Off(100),
    "max_tokens": 64,
    "truncate": True,
}

_TUNING = {
    "optimizer": "cma",
    "prompt_tokens": 8,
    "initial_prompt": Off({"words": "a review of a film"}),
    "intrinsic_dim": 100,
    "population": 20,
    "generations": 6,
    "alpha": 1.0,
}

_LINE = 'A line looks like this: {"text": "a dull film", "label": "negative"}'

_FILL_IN = {
    "model.folder": "Fill in the folder. A relative path starts at the folder of this file.",
    "task.pool": f"Fill in the file. {_LINE}",
    "task.test": "Fill in the file.",
    "task.template": "Change the words around the text to what you ask.",
    "task.labels": "Fill in your labels, as they are in the files, and the words that the model may answer.",
}


def _own_model() -> Template:
    return Template(
        "Your own model and texts, with all parties in one process. The process sees everything: this is for "
        "development and measuring. Fill in what the comments ask for.\n"
        "Run it with: secp-spu tune --config FILE --out DIR\n"
        "Plaintext is much faster to try it with: add --set protocol=plaintext",
        {"protocol": "aby3", "model": _MODEL, "task": _TASK, "tuning": {**_TUNING, "seed": 0}},
        _FILL_IN,
    )


def _cluster() -> Template:
    parties = ("alice", "bob", "carol")
    addresses = {
        name: {"control": f"10.0.0.{number}:9100", "compute": f"10.0.0.{number}:9110"}
        for number, name in enumerate(parties, 1)
    }
    cluster = {
        "data_owner": "alice",
        "model_owner": "bob",
        "compute": list(parties),
        "addresses": addresses,
        "tls": {"ca": "tls/ca.pem", "certificate": "tls/{party}.pem", "key": "tls/{party}.key"},
        "limits": Off({"generations_a_day": 50, "predictions_a_day": 500}),
        "log": Off("logs/{party}.jsonl"),
    }
    return Template(
        "Three machines under ABY3: alice has the texts, bob has the model, and carol only computes. "
        "This is private as long as no two of them put their views together.\n"
        "Fill in what the comments ask for. Every party has a copy of this file with its own paths; the paths of files "
        "that it does not read may stay as they are.\n"
        "Each party runs: secp-spu party --config FILE --party NAME (alice adds --out DIR)",
        {
            **{"protocol": "aby3", "parties": len(parties), "correlations": "joint", "cluster": cluster},
            **{"model": {**_MODEL, "embedding": Off("private")}, "task": _TASK, "tuning": _TUNING},
        },
        {
            "cluster.addresses": "Fill in the machines' addresses. The parties must reach each other's ports.",
            "cluster.tls": "Fill in the paths. {party} stands for the name of the party that reads the file. An "
            "authority that all parties trust signs the certificates.",
            **_FILL_IN,
            "model.folder": "alice and bob fill in the folder. bob makes alice's folder with secp-spu embeddings.",
            "task.pool": f"alice fills in the file. {_LINE}",
            "task.test": "alice fills in the file.",
        },
    )
