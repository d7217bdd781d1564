"""Reads and writes a folder's safetensors as trees of float32 arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from secp_spu.model.hub.config_json import CheckpointError, read_json
from secp_spu.model.hub.families import FAMILIES
from secp_spu.model.hub.names import Leaf, Leaves, flatten, unflatten
from secp_spu.trees import Floats, JsonObject, Tree


class Tensors:
    """The tensors of a folder by name, read one at a time as float32.

    Names are brought to one form: `gamma` and `beta` of old layer norms are weight and bias, the decoder's bias is that
    of its module, a tied decoder is the table of word embeddings, and GPT-2's names have their prefix.
    """

    def __init__(self, folder: Path, hub: JsonObject):
        self.folder = folder
        self.family = FAMILIES[str(hub["model_type"])]
        self._places: dict[str, tuple[Path, str]] = {}
        for path in _weight_files(folder):
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 (it is not a mapping)
                    modern = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("Norm.beta", "Norm.bias")
                    self._places[modern] = (path, name)
        prefix, decoder = self.family.prefix, self.family.decoder
        top_level = decoder.split(".")[0] + "."
        prefixed = any(name.startswith(prefix) for name in self._places)
        if self.family.causal and not prefixed:
            added = {name if name.startswith(top_level) else prefix + name: at for name, at in self._places.items()}
            self._places, prefixed = added, True
        self.prefix: str = prefix if prefixed else ""

        self.has_head: bool = self.family.causal or any(
            name.startswith(top_level) and not self.family.ignored.fullmatch(name) for name in self._places
        )
        words = self._places.get(f"{self.prefix}{self.family.words}.weight")
        if self.has_head and words and hub.get("tie_word_embeddings", True):
            self._places[f"{decoder}.weight"] = words
        if self.family.decoder_bias and self.family.decoder_bias in self._places:
            self._places[f"{decoder}.bias"] = self._places.pop(self.family.decoder_bias)

    def refuse_unknown(self, leaves: Sequence[Leaf]) -> None:
        """Raise if the folder holds a tensor that is neither in these leaves nor known to be needless."""
        known = {name for leaf in leaves for name in leaf.tensors}
        unknown = sorted(name for name in self._places.keys() - known if not self.family.ignored.fullmatch(name))
        if unknown:
            path, name = self._places[unknown[0]]
            classes = self.family.classes
            raise CheckpointError(
                f"{path} holds {name} and {len(unknown) - 1} more tensors that a {classes}Model or "
                f"{classes}{self.family.head_class} of this config.json has not: remove them or correct config.json"
            )

    def holds(self, leaf: Leaf) -> bool:
        """Whether the folder has a leaf's tensors."""
        return all(name in self._places for name in leaf.tensors)

    def gather(self, leaves: Leaves) -> Tree:
        """Our tree of these leaves."""
        arrays = {}
        for path, leaf in leaves.items():
            parts = [self._read(name, leaf.shape) for name in leaf.tensors]
            arrays[path] = np.concatenate([part.T if leaf.transposed else part for part in parts], axis=-1)
        return unflatten(arrays)

    def _read(self, name: str, shape: tuple[int, ...]) -> Floats:
        if name not in self._places:
            raise CheckpointError(
                f"{self.folder} lacks the tensor {name}: save the whole model, or correct config.json"
            )
        path, stored = self._places[name]
        with _opened(path) as file:
            header = file.get_slice(stored)
            kind, came = header.get_dtype(), tuple(header.get_shape())
            if kind not in ("F32", "F16", "BF16"):
                raise CheckpointError(
                    f"{path}: {stored} is of type {kind}, allowed are F32, F16, BF16: save it as such"
                )
            if came != shape:
                raise CheckpointError(
                    f"{path}: {stored} has shape {came}, config.json asks for {shape}: correct one of them"
                )
            array: Floats = file.get_tensor(stored).astype(np.float32)
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {stored} holds NaN or infinity, weights are finite: save it anew")
        return array


def scatter(leaves: Leaves, tree: Tree, *, float16: bool) -> dict[str, npt.NDArray[np.generic]]:
    """Tensors by Hugging Face's names, from our tree."""
    arrays = flatten(dict(tree))
    for path in sorted(leaves.keys() ^ arrays.keys()):
        raise CheckpointError(f"params and config disagree about {'/'.join(path)}: pass the params of this config")
    tensors = {}
    for path, leaf in leaves.items():
        with np.errstate(over="ignore"):
            array = np.asarray(arrays[path]).astype(np.float16 if float16 else np.float32)
        if array.shape != leaf.own_shape:
            raise CheckpointError(
                f"{'/'.join(path)} has shape {array.shape}, config asks for {leaf.own_shape}: correct one of them"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{'/'.join(path)} as {array.dtype} holds NaN or infinity, weights are finite")
        for name, part in zip(leaf.tensors, np.split(array, len(leaf.tensors), axis=-1), strict=True):
            tensors[name] = np.ascontiguousarray(part.T if leaf.transposed else part)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise CheckpointError(f"{folder} holds neither {single.name} nor {index.name}: save it with save_pretrained")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is {weight_map!r}, it must name a file for every tensor")
    return [folder / name for name in sorted({str(name) for name in weight_map.values()})]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:  # Any: safetensors has no types for an open file.
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}): fetch it again") from error
