"""Lists the arrays of a model: which of a checkpoint's tensors make which of our arrays, and their shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from flax.traverse_util import flatten_dict, unflatten_dict

from secp_spu.model.activation import activation_class
from secp_spu.model.attention import attention_class
from secp_spu.model.hub.families.family import Family, Module
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.trees import Floats, Tree


class Leaf(NamedTuple):
    """One array of ours: the tensors it is joined from, and the shape of each of them."""

    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Shape of our array."""
        *rows, columns = self.shape[::-1] if self.transposed else self.shape
        return (*rows, columns * len(self.tensors))


LeafPath: TypeAlias = tuple[str, ...]
"""Where an array is in our tree."""

Leaves: TypeAlias = dict[LeafPath, Leaf]

flatten: Callable[[Tree], dict[LeafPath, Floats]] = flatten_dict
unflatten: Callable[[Mapping[LeafPath, Floats]], Tree] = unflatten_dict
"""Our tree as arrays by their paths, and back; Flax has no types for these functions."""


def module_leaves(
    config: TransformerConfig, modules: Sequence[Module], path: LeafPath = (), prefix: str = ""
) -> Leaves:
    """The arrays of modules, by their path in our tree."""
    leaves = {}
    for module in modules:
        shape = tuple(getattr(config, size) for size in module.sizes)
        for ours, theirs in module.arrays.items():
            tensors = tuple(f"{prefix}{source}.{theirs}" for source in module.sources)
            bias_shape = shape[:1] if module.transposed else shape[-1:]
            transposed = ours == "kernel" and module.transposed
            leaf = Leaf(tensors, shape if theirs == "weight" else bias_shape, transposed)
            leaves[(*path, module.name, ours)] = leaf
    return leaves


def transformer_leaves(config: TransformerConfig, family: Family, prefix: str) -> Leaves:
    """The arrays of `Transformer`, by their path in its params."""
    leaves = module_leaves(config, family.embeddings, ("embeddings",), prefix)
    attention, activation = attention_class(config).tensors(config), activation_class(config).parameters
    for layer in range(config.layers):
        ours, theirs = f"layers_{layer}", f"{prefix}{family.layer_prefix}{layer}."
        leaves |= module_leaves(config, family.layer, (ours,), theirs)
        for name, shape in attention.items():
            leaves[(ours, "attention", name)] = Leaf((f"{theirs}{family.attention_prefix}{name}",), shape)
        for name in activation:
            tensor = f"{theirs}{family.activation_prefix}{name}"
            leaves[(ours, "activation", name)] = Leaf((tensor,), (config.intermediate,))
    return leaves
