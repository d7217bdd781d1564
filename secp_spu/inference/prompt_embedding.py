"""Embeds soft prompts that nobody knows whole: p0 + deviation * shifts, then the embeddings' norm, under MPC."""

from __future__ import annotations

from functools import partial

from jax import Array

from secp_spu.inference.secure_model import setting_of
from secp_spu.model import FOLDED, SUM_BITS, Norm, Setting, TransformerConfig, apply_module, hidden_bits
from secp_spu.model.backward import pull_back_norm
from secp_spu.protocol import FRACTION_BITS, Number, from_storage, rounded, to_storage
from secp_spu.runtime.base import Runtime
from secp_spu.runtime.handles import Stored
from secp_spu.trees import Tree

SHIFT_BITS = 15
"""Fraction bits of shifts. Products with a deviation of 18 bits have 16 more than SUM_BITS: one cheap truncation."""


class PromptEmbedding:
    """A p0 at the compute parties, and what they make of shifts from it.

    Shifts are in standard deviations of the word embeddings, of SHIFT_BITS fraction bits
    [candidates, prompt_tokens, width]. What comes out is the embeddings' norm without gain and shift, which the first
    layer takes in (`fold_layer`); of a decoder, which has no norm there, it is the sum. Encoded as the layers take
    hidden states (`hidden_bits`).

    Args:
        runtime: where it runs.
        config: of the transformer.
        placed: p0 with its positions, of SUM_BITS fraction bits [prompt_tokens, width].
        deviation: of the word embeddings [1].
    """

    def __init__(self, runtime: Runtime, config: TransformerConfig, placed: Stored, deviation: Stored):
        self._runtime, self._placed, self._deviation = runtime, placed, deviation
        setting = setting_of(runtime)
        self._embed = partial(_embed, config, setting)
        self._embed_keeping = partial(_embed_keeping, config, setting)
        self._pull_back = partial(_pull_back, setting)

    def embed(self, shifts: Stored) -> Stored:
        """Prompts for the first layer [candidates, prompt_tokens, width]."""
        prompts: Stored = self._runtime.run("embed_prompts", self._embed, self._placed, shifts, self._deviation)
        return prompts

    def embed_keeping(self, shifts: Stored) -> tuple[Stored, Tree]:
        """`embed`, and what `pull_back` reads; of an encoder."""
        prompts, kept = self._runtime.run(
            "embed_prompts.forward", self._embed_keeping, self._placed, shifts, self._deviation
        )
        return prompts, kept

    def pull_back(self, kept: Tree, cotangent: Stored) -> Stored:
        """The cotangent of shifts by that of the prompts that the first layer reads.

        Args:
            kept: by `embed_keeping`; deleted, as is the other argument.
            cotangent: encoded with SUM_BITS fraction bits [candidates, prompt_tokens, width].
        Returns: likewise.
        """
        found: Stored = self._runtime.run("embed_prompts.backward", self._pull_back, kept, cotangent, self._deviation)
        self._runtime.free([kept, cotangent])
        return found


def embedded_rows(config: TransformerConfig, placed: Number, keep: Number | None) -> Array:
    """Word embeddings with their positions as the first layer takes them; rows of padding become zero.

    Args:
        config: of the transformer. A decoder's rows are not normalised, and its padding stays.
        placed: [batch, tokens, width].
        keep: 1 for tokens, 0 for padding [batch, tokens]; None without padding.
    """
    bits = hidden_bits(config)
    if config.causal:
        return to_storage(rounded(placed, bits), bits)
    norm = Norm(config.layer_norm_epsilon, FOLDED)
    return to_storage(apply_module(norm, {}, rounded(placed, SUM_BITS), keep), bits)


def _embed(config: TransformerConfig, setting: Setting, placed: Array, shifts: Array, deviation: Array) -> Array:
    return embedded_rows(config, _moved(setting, placed, shifts, deviation), None)


def _embed_keeping(
    config: TransformerConfig, setting: Setting, placed: Array, shifts: Array, deviation: Array
) -> tuple[Array, Tree]:
    moved = rounded(_moved(setting, placed, shifts, deviation), SUM_BITS)
    found, collections = Norm(config.layer_norm_epsilon, FOLDED).apply({}, moved, mutable=["kept"])
    return to_storage(found, hidden_bits(config)), collections["kept"]


def _moved(setting: Setting, placed: Array, shifts: Array, deviation: Array) -> Number:
    shifted = from_storage(shifts, SHIFT_BITS, secure=setting.secure) * _number(setting, deviation)
    return shifted + from_storage(placed, SUM_BITS, secure=setting.secure)


def _pull_back(setting: Setting, kept: Tree, cotangent: Array, deviation: Array) -> Array:
    of_moved = pull_back_norm(kept, from_storage(cotangent, SUM_BITS, secure=setting.secure))
    return to_storage(rounded(of_moved * _number(setting, deviation), SUM_BITS), SUM_BITS)


def _number(setting: Setting, deviation: Array) -> Number:
    return from_storage(deviation, FRACTION_BITS, secure=setting.secure)
