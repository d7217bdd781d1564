"""How texts and prompts reach the first layer: embedded by the data owner at home, or looked up under MPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from secp_spu.inference import Batch, PrivateEmbedding
from secp_spu.model import TransformerConfig
from secp_spu.runtime import Actor, Owned, Runtime, Stored
from secp_spu.trees import Tree
from secp_spu.tuning.inputs import PromptSet, Split, TokenSet


class Embedding(Protocol):
    """How a data owner's texts and prompts come to the compute parties."""

    def texts(self, split: Split, first: int, last: int) -> Batch:
        """Texts first..last - 1 of a split."""
        ...

    def labels(self) -> Batch:
        """The labels' descriptions, for the label-embedding head."""
        ...

    def prompts(self, which: PromptSet, first: int, last: int) -> Stored:
        """Prompts first..last - 1 of a set [prompts, prompt_tokens, width]."""
        ...

    def prompts_keeping(self, which: PromptSet, first: int, last: int) -> tuple[Stored, Tree]:
        """`prompts`, and what `pull_back` reads."""
        ...

    def pull_back(self, kept: Tree, cotangent: Stored) -> Stored:
        """The cotangent of what the data owner shares of prompts, by that of `prompts`; both arguments are deleted.

        Both encoded with SUM_BITS fraction bits [prompts, prompt_tokens, width].
        """
        ...

    def end_set_up(self) -> None:
        """All texts are there."""


class EmbeddingAtHome(Embedding):
    """The data owner has the tables and shares what it has embedded.

    Args:
        runtime: where it is shared.
        data_owner: actor of a DataOwner.
    """

    def __init__(self, runtime: Runtime, data_owner: Actor):
        self._runtime, self._data_owner = runtime, data_owner

    @override
    def texts(self, split: Split, first: int, last: int) -> Batch:
        return Batch(**self._runtime.share(self._data_owner.inputs(split, first, last)))

    @override
    def labels(self) -> Batch:
        return Batch(**self._runtime.share(self._data_owner.label_inputs()))

    @override
    def prompts(self, which: PromptSet, first: int, last: int) -> Stored:
        prompts: Stored = self._runtime.share(self._data_owner.prompts(which, first, last))
        return prompts

    @override
    def prompts_keeping(self, which: PromptSet, first: int, last: int) -> tuple[Stored, Tree]:
        return self.prompts(which, first, last), ()

    @override
    def pull_back(self, kept: Tree, cotangent: Stored) -> Stored:
        return cotangent

    @override
    def end_set_up(self) -> None:
        pass


class EmbeddingUnderMpc(Embedding):
    """The model owner shares its tables, the data owner one-hot rows of its tokens and A z of its prompts.

    p = A z + p0 is put together under MPC, and so is its scale: A z is shared in standard deviations of the word
    embeddings, which only the model owner knows. p0, known to nobody, is looked up like a text.

    Args:
        runtime: where it is computed.
        transformer: config of the transformer.
        data_owner: actor of a DataOwner.
        model_owner: actor of a ModelOwner.
        prompt_tokens: vectors of a prompt.
    """

    def __init__(
        self,
        runtime: Runtime,
        transformer: TransformerConfig,
        data_owner: Actor,
        model_owner: Actor,
        *,
        prompt_tokens: int,
    ):
        self._runtime, self._data_owner, self._prompt_tokens = runtime, data_owner, prompt_tokens
        rest = runtime.share(model_owner.other_tables())
        self._tables = PrivateEmbedding(
            runtime, transformer, lambda rows: runtime.share(model_owner.word_rows(rows)), rest
        )
        self._initial = self._look_up("prompt", range(prompt_tokens))

    @override
    def texts(self, split: Split, first: int, last: int) -> Batch:
        return self._batch(split, first, self._data_owner.inputs(split, first, last), self._prompt_tokens)

    @override
    def labels(self) -> Batch:
        return self._batch("labels", 0, self._data_owner.label_inputs(), 0)

    @override
    def prompts(self, which: PromptSet, first: int, last: int) -> Stored:
        prompts: Stored = self._embedded(self._tables.embed_prompts, which, first, last)
        return prompts

    @override
    def prompts_keeping(self, which: PromptSet, first: int, last: int) -> tuple[Stored, Tree]:
        found: tuple[Stored, Tree] = self._embedded(self._tables.embed_prompts_keeping, which, first, last)
        return found

    def _embedded(self, embed: Callable[[list[Stored], Stored], Tree], which: PromptSet, first: int, last: int) -> Tree:
        """What `embed` makes of p0 and the shifts that the data owner shares."""
        shifts: Stored = self._runtime.share(self._data_owner.prompts(which, first, last))
        found = embed(self._initial, shifts)
        self._runtime.free(shifts)
        return found

    @override
    def pull_back(self, kept: Tree, cotangent: Stored) -> Stored:
        return self._tables.pull_back_prompts(kept, cotangent)

    @override
    def end_set_up(self) -> None:
        """Word embeddings, the most of the tables, take no memory from here on."""
        self._tables.free_words()

    def _batch(self, which: TokenSet, first: int, inputs: Owned, first_position: int) -> Batch:
        rows = self._runtime.share(inputs)
        keep = rows.pop("keep")
        texts, tokens = keep.spec.shape
        words = self._look_up(which, range(first * tokens, (first + texts) * tokens))
        hidden = self._tables.embed(words, keep, first_position)
        self._runtime.free(keep)
        return Batch(hidden=hidden, **rows)

    def _look_up(self, which: TokenSet, tokens: range) -> list[Stored]:
        def share_one_hot(some: range, rows: range) -> Stored:
            shared: Stored = self._runtime.share(self._data_owner.one_hot(which, some, rows))
            return shared

        return self._tables.look_up(tokens, share_one_hot)


def make_embedding(
    runtime: Runtime, kind: str, transformer: TransformerConfig, owners: tuple[Actor, Actor], *, prompt_tokens: int
) -> Embedding:
    """What `model.embedding` calls `kind`.

    Args:
        runtime: where it is shared or computed.
        kind: "data_owner" or "private".
        transformer: config of the transformer.
        owners: actors of the DataOwner and the ModelOwner.
        prompt_tokens: vectors of a prompt.
    """
    if kind == "private":
        return EmbeddingUnderMpc(runtime, transformer, *owners, prompt_tokens=prompt_tokens)
    return EmbeddingAtHome(runtime, owners[0])
