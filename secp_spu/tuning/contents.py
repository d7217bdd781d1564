"""Fingerprints of what a run is made of: the contents of the files that its configuration names, wherever they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from secp_spu.config import Config
from secp_spu.model import describe_config, fingerprint_json, fingerprint_weights
from secp_spu.tuning.task import Example, read_examples


def contents_of(config: Config) -> dict[str, str]:
    """SHA-256 of what this party's files hold, by what it is.

    Of `task.pool` and `task.test` it is of the examples that are read of them: labels and the template's fields, in
    order. Of `model.folder` of what config.json says, of the tokenizer, of every embedding table, and of `weights`, all
    others, as far as they are there: a data owner in a cluster has no others.

    Raises: ConfigError; CheckpointError.
    """
    task = config.task
    return {
        "pool": _of_examples(read_examples(task.pool, task)),
        "test": _of_examples(read_examples(task.test, task)[: task.test_examples]),
        **contents_of_model(config.model.folder),
    }


def contents_of_model(folder: Path) -> dict[str, str]:
    """What `contents_of` says of a model's folder.

    Raises: CheckpointError.
    """
    described = json.dumps(describe_config(folder), sort_keys=True)
    return {
        "config.json": hashlib.sha256(described.encode()).hexdigest(),
        "tokenizer.json": fingerprint_json(folder / "tokenizer.json"),
        **fingerprint_weights(folder),
    }


def place_of(name: str) -> str:
    """Where a run's configuration says what `contents_of` calls by a name, for messages."""
    if name in ("pool", "test"):
        return f"task.{name}"
    return f"model.folder ({name if '.' in name or name == 'weights' else f'embedding table `{name}`'})"


def _of_examples(examples: Sequence[Example]) -> str:
    content = json.dumps([(example.label, example.fields) for example in examples], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
