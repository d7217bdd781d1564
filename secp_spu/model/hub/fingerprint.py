"""Fingerprints of a Hugging Face folder: SHA-256 of what it holds, as it is loaded, wherever and however it is stored.

Two folders with the same values have the same fingerprints, whatever their files are called, however the tensors are
spread over them, and whether a number that float16 holds is stored in two bytes or in four.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np

from secp_spu.model.hub.config_json import read_config, read_json
from secp_spu.model.hub.names import Leaves, flatten, module_leaves, transformer_leaves
from secp_spu.model.hub.tensors import Tensors
from secp_spu.trees import JsonObject

CACHED_FOLDERS = 8
"""Folders whose weights' fingerprints a process remembers, as long as no file in them changes."""

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of every file of a folder that its fingerprints depend on."""


def describe_config(folder: Path) -> JsonObject:
    """What config.json says about the model, as JSON; nothing about how the model was made, such as `adapted`.

    Raises: CheckpointError, naming the key.
    """
    hub, config = read_config(folder)
    described: JsonObject = json.loads(json.dumps(asdict(config)))
    return {"model_type": hub["model_type"], **described}


def fingerprint_json(path: Path) -> str:
    """SHA-256 of the object in a JSON file, whatever the order of its keys and its spaces; hexadecimal.

    Raises: CheckpointError for a file that cannot be read.
    """
    return hashlib.sha256(json.dumps(read_json(path), sort_keys=True).encode()).hexdigest()


def fingerprint_tables(folder: Path) -> dict[str, str]:
    """SHA-256 of each embedding table in a folder, by name: word, position, type and norm, where the model has them.

    Raises: CheckpointError for a folder without the tables.
    """
    return dict(_tables(folder, _stamp(folder)))


def fingerprint_weights(folder: Path) -> dict[str, str]:
    """SHA-256 of all weights that a folder holds, by name: of each embedding table, and of `weights`, all others.

    A folder without weights, such as that of a data owner with `model.embedding: private`, has no fingerprints; one
    with the embedding tables alone has no `weights`.

    Raises: CheckpointError for a folder that cannot be read.
    """
    if not any(folder.glob("*.safetensors")):
        return {}
    stamp = _stamp(folder)
    return dict(_tables(folder, stamp)) | dict(_other_weights(folder, stamp))


def _stamp(folder: Path) -> Stamp:
    """What changes when a file of the folder does."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".json", ".safetensors") and path.exists()]
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@lru_cache(CACHED_FOLDERS)
def _tables(folder: Path, stamp: Stamp) -> tuple[tuple[str, str], ...]:
    del stamp  # it is there for the cache
    hub, config = read_config(folder)
    tensors = Tensors(folder, hub)
    by_table: dict[str, Leaves] = {}
    for path, leaf in module_leaves(config, tensors.family.embeddings, prefix=tensors.prefix).items():
        by_table.setdefault(path[0], {})[path] = leaf
    return tuple((table, _fingerprint(tensors, [leaves])) for table, leaves in by_table.items())


@lru_cache(CACHED_FOLDERS)
def _other_weights(folder: Path, stamp: Stamp) -> tuple[tuple[str, str], ...]:
    del stamp
    hub, config = read_config(folder)
    tensors = Tensors(folder, hub)
    leaves = transformer_leaves(config, tensors.family, tensors.prefix)
    layers = {at: leaf for at, leaf in leaves.items() if at[0] != "embeddings"}
    if not any(tensors.holds(leaf) for leaf in layers.values()):
        return ()
    head = module_leaves(config, tensors.family.head) if tensors.has_head else {}
    return (("weights", _fingerprint(tensors, [layers, head])),)


def _fingerprint(tensors: Tensors, parts: Iterable[Leaves]) -> str:
    """SHA-256 of the arrays of leaves, with their places and shapes; one array is in memory at a time."""
    digest = hashlib.sha256()
    for number, leaves in enumerate(parts):
        for path in sorted(leaves):
            as_stored = leaves[path]._replace(transposed=False)  # to transpose takes longer than all the rest
            (array,) = flatten(tensors.gather({path: as_stored})).values()
            values = np.ascontiguousarray(array, "<f4")
            digest.update(f"{number} {'/'.join(path)} {values.shape}\n".encode())
            digest.update(values.data)
    return digest.hexdigest()
