"""Embeds secret tokens with a model owner's secret tables: one-hot rows choose the rows of the first layer's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from secp_spu.inference.prompt_embedding import PromptEmbedding, embedded_rows
from secp_spu.inference.secure_model import setting_of
from secp_spu.model import PLAIN, SUM_BITS, Setting, TransformerConfig
from secp_spu.protocol import FRACTION_BITS, Fixed, Number, from_storage, to_storage
from secp_spu.runtime.base import Runtime
from secp_spu.runtime.handles import Stored
from secp_spu.trees import Floats, Ints, Tree

TABLE_ELEMENTS = 2**26
"""Most elements of word embeddings in one product: 65,536 rows of width 1024, which are 1 GiB a party under ABY3."""

ONE_HOT_ELEMENTS = 2**24
"""Most elements of one-hot rows in one product: 333 tokens of a vocabulary of 50,265, 256 MiB a party under ABY3."""

ShareOneHot = Callable[[range, range], Stored]
"""Shares a data owner's one-hot rows of tokens, by number, among rows of the vocabulary: int32 [tokens, rows]."""


def parts(count: int, step: int) -> Iterator[range]:
    """Numbers 0..count - 1 in runs of at most `step`."""
    return (range(first, min(first + step, count)) for first in range(0, count, step))


def one_hot(token_ids: Ints, rows: range) -> npt.NDArray[np.int32]:
    """Ones where a token is a row's, at an owner: int32 [..., len(rows)] of ids [...]."""
    chosen: npt.NDArray[np.bool_] = token_ids[..., None] == np.arange(rows.start, rows.stop)
    return chosen.astype(np.int32)


def look_up(one_hot: Array, table: Array, *total: Array, setting: Setting = PLAIN) -> Array:
    """The rows of a table that one-hot rows choose, added to what other parts of the table gave.

    Args:
        one_hot: secret integers [..., rows].
        table: secret fixed point [rows, width].
        total: what other rows gave [..., width], if any.
        setting: where it runs.
    Returns: secret fixed point [..., width]. Exact: ones are integers, so that nothing is truncated. Reveals nothing.
    Cost (a party): ABY3 8 bytes an element of the result and 1 send, whatever the rows; SEMI2K with two parties 8 bytes
        an element of both inputs and 1 send.
    """
    choices = Fixed(one_hot, 0) if setting.secure else one_hot
    chosen = choices @ from_storage(table, FRACTION_BITS, secure=setting.secure)
    return sum(total, start=to_storage(chosen, FRACTION_BITS))


def encoded_words(params: Tree, rows: range) -> Floats:
    """Word embeddings in params of `Embeddings`, as `PrivateEmbedding` takes them: of SUM_BITS fraction bits.

    Returns: those of some rows of the vocabulary [rows, width].
    """
    words: Floats = params["word"]["embedding"][rows.start : rows.stop]
    return to_storage(words, SUM_BITS)


def other_tables(params: Tree) -> dict[str, Floats]:
    """What `PrivateEmbedding` takes besides: all in params of `Embeddings` but gain and shift of the norm.

    Returns: `places`, embeddings of positions and of the first type added up, of SUM_BITS fraction bits
        [positions, width]; `deviation`, the standard deviation of the word embeddings [1].
    """
    places: Floats = params["position"]["embedding"] + (params["type"]["embedding"][0] if "type" in params else 0)
    return {
        "places": to_storage(places, SUM_BITS),
        "deviation": np.array([params["word"]["embedding"].std()], np.float32),
    }


class PrivateEmbedding:
    """A model owner's embedding tables at the compute parties, and what they do with a data owner's secret tokens.

    What it gives are the rows of the embeddings' norm without gain and shift, encoded with HIDDEN_BITS: the first layer
    takes them in (`fold_layer`), as every layer those of the layer before. Of a decoder, which has no norm there, it is
    the sum, encoded with STREAM_BITS.

    Args:
        runtime: where it runs.
        config: of the transformer.
        share_words: gives `encoded_words` of rows of the vocabulary, as a handle [rows, width].
        rest: handles of what `other_tables` gives.
    """

    def __init__(self, runtime: Runtime, config: TransformerConfig, share_words: Callable[[range], Stored], rest: Tree):
        self._runtime, self._config, self._rest = runtime, config, rest
        setting = setting_of(runtime)
        self._look_up = partial(look_up, setting=setting)
        self._embed = cache(lambda first_position: partial(_embed, config, setting, first_position))
        self._place_prompts = partial(_place_prompts, config, setting)
        rows = max(1, TABLE_ELEMENTS // config.width)
        self._words = [(part, share_words(part)) for part in parts(config.vocab_size, rows)]

    def look_up(self, tokens: range, share_one_hot: ShareOneHot) -> list[Stored]:
        """Word embeddings of the data owner's tokens of these numbers, in parts [tokens, width]."""
        step = max(1, ONE_HOT_ELEMENTS // len(self._words[0][0]))
        return [self._look_up_part(tokens[part.start : part.stop], share_one_hot) for part in parts(len(tokens), step)]

    def _look_up_part(self, tokens: range, share_one_hot: ShareOneHot) -> Stored:
        total: list[Stored] = []
        for rows, table in self._words:
            chosen = share_one_hot(tokens, rows)
            result = self._runtime.run("look_up", self._look_up, chosen, table, *total)
            self._runtime.free([chosen, *total])
            total = [result]
        return total[0]

    def embed(self, words: Sequence[Stored], keep: Stored, first_position: int) -> Stored:
        """Texts for the first layer [texts, tokens, width], zero on padding but for a decoder, which does not look.

        Args:
            words: what `look_up` gave for all their tokens, which this frees.
            keep: 1 for tokens, 0 for padding, secret integers [texts, tokens].
            first_position: how many tokens stand before a text.
        """
        hidden: Stored = self._runtime.run("embed", self._embed(first_position), list(words), keep, self._rest)
        self._runtime.free(list(words))
        return hidden

    def prompts(self, words: Sequence[Stored]) -> PromptEmbedding:
        """What embeds prompts around the p0 of these words, which `look_up` gave, and which this frees."""
        placed: Stored = self._runtime.run("place_prompts", self._place_prompts, list(words), self._rest)
        self._runtime.free(list(words))
        return PromptEmbedding(self._runtime, self._config, placed, self._rest["deviation"])

    def free_words(self) -> None:
        """Delete the word embeddings: nothing more is to be looked up."""
        self._runtime.free([table for _, table in self._words])
        self._words = []


def _embed(
    config: TransformerConfig, setting: Setting, first_position: int, words: Sequence[Array], keep: Array, rest: Tree
) -> Array:
    vectors = from_storage(jnp.concatenate(words).reshape(*keep.shape, config.width), SUM_BITS, secure=setting.secure)
    placed = vectors + _places(config, setting, first_position, keep.shape[1], rest)
    return embedded_rows(config, placed, Fixed(keep, 0) if setting.secure else keep)


def _place_prompts(config: TransformerConfig, setting: Setting, words: Sequence[Array], rest: Tree) -> Array:
    """Local."""
    vectors = from_storage(jnp.concatenate(words), SUM_BITS, secure=setting.secure)
    return to_storage(vectors + _places(config, setting, 0, vectors.shape[0], rest), SUM_BITS)


def _places(config: TransformerConfig, setting: Setting, first_position: int, tokens: int, rest: Tree) -> Number:
    first = first_position + config.position_offset
    return from_storage(rest["places"][first : first + tokens], SUM_BITS, secure=setting.secure)
