"""How texts and prompts reach the first layer: embedded by the data owner at home, or looked up under MPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from typing_extensions import override

from secp_spu.config import Config
from secp_spu.inference import Batch, PrivateEmbedding, PromptEmbedding
from secp_spu.model import TransformerConfig
from secp_spu.runtime import Actor, Owned, Runtime, Stored
from secp_spu.trees import Tree
from secp_spu.tuning.inputs import PromptSet, Split, TokenSet

ShareShifts: TypeAlias = Callable[[PromptSet, int, int], Stored]
"""Gives shifts of prompts first..last - 1 of a set, see `PromptEmbedding` [prompts, prompt_tokens, width]."""


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


class PromptsUnderMpc(Embedding):
    """Prompts p0 + deviation * shift are put together under MPC, and pass the embeddings' norm there.

    Args:
        runtime: where it is computed.
        prompts: that embeds them.
        share_shifts: gives shifts of prompts of a set.
    """

    def __init__(self, runtime: Runtime, prompts: PromptEmbedding, share_shifts: ShareShifts):
        self._runtime, self._prompts, self._share_shifts = runtime, prompts, share_shifts

    @override
    def prompts(self, which: PromptSet, first: int, last: int) -> Stored:
        prompts: Stored = self._embedded(self._prompts.embed, which, first, last)
        return prompts

    @override
    def prompts_keeping(self, which: PromptSet, first: int, last: int) -> tuple[Stored, Tree]:
        found: tuple[Stored, Tree] = self._embedded(self._prompts.embed_keeping, which, first, last)
        return found

    def _embedded(self, embed: Callable[[Stored], Tree], which: PromptSet, first: int, last: int) -> Tree:
        """What `embed` makes of shifts, which are deleted."""
        shifts = self._share_shifts(which, first, last)
        found = embed(shifts)
        self._runtime.free(shifts)
        return found

    @override
    def pull_back(self, kept: Tree, cotangent: Stored) -> Stored:
        return self._prompts.pull_back(kept, cotangent)


class TextsAtHome(PromptsUnderMpc):
    """The data owner has the tables, and shares its texts embedded; what its prompts' shifts are, nobody knows.

    Args:
        runtime: where it is shared.
        transformer: config of the transformer.
        data_owner: actor of a DataOwner.
        share_shifts: gives shifts of prompts of a set.
    """

    def __init__(self, runtime: Runtime, transformer: TransformerConfig, data_owner: Actor, share_shifts: ShareShifts):
        placed, deviation = runtime.share(data_owner.start())
        super().__init__(runtime, PromptEmbedding(runtime, transformer, placed, deviation), share_shifts)
        self._texts = EmbeddingAtHome(runtime, data_owner)

    @override
    def texts(self, split: Split, first: int, last: int) -> Batch:
        return self._texts.texts(split, first, last)

    @override
    def labels(self) -> Batch:
        return self._texts.labels()

    @override
    def end_set_up(self) -> None:
        pass


class EmbeddingUnderMpc(PromptsUnderMpc):
    """The model owner shares its tables, the data owner one-hot rows of its tokens.

    Prompts are put together under MPC, and so is their scale: shifts are in standard deviations of the word embeddings,
    which only the model owner knows. p0, known to nobody, is looked up like a text.

    Args:
        runtime: where it is computed.
        transformer: config of the transformer.
        data_owner: actor of a DataOwner.
        model_owner: actor of a ModelOwner.
        share_shifts: gives shifts of prompts of a set.
        prompt_tokens: vectors of a prompt.
    """

    def __init__(
        self,
        runtime: Runtime,
        transformer: TransformerConfig,
        data_owner: Actor,
        model_owner: Actor,
        share_shifts: ShareShifts,
        *,
        prompt_tokens: int,
    ):
        self._runtime, self._data_owner, self._prompt_tokens = runtime, data_owner, prompt_tokens
        rest = runtime.share(model_owner.other_tables())
        self._tables = PrivateEmbedding(
            runtime, transformer, lambda rows: runtime.share(model_owner.word_rows(rows)), rest
        )
        prompts = self._tables.prompts(self._look_up("prompt", range(prompt_tokens)))
        super().__init__(runtime, prompts, share_shifts)

    @override
    def texts(self, split: Split, first: int, last: int) -> Batch:
        return self._batch(split, first, self._data_owner.inputs(split, first, last), self._prompt_tokens)

    @override
    def labels(self) -> Batch:
        return self._batch("labels", 0, self._data_owner.label_inputs(), 0)

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
    runtime: Runtime,
    config: Config,
    transformer: TransformerConfig,
    owners: tuple[Actor, Actor],
    share_shifts: ShareShifts | None,
) -> Embedding:
    """What `model.embedding` says.

    Args:
        runtime: where it is shared or computed.
        config: of the run.
        transformer: config of the transformer.
        owners: actors of the DataOwner and the ModelOwner.
        share_shifts: gives shifts of prompts that nobody knows; None for a data owner that shares what it knows.
    """
    data_owner, model_owner = owners

    def share_known(which: PromptSet, first: int, last: int) -> Stored:
        shifts: Stored = runtime.share(data_owner.prompts(which, first, last))
        return shifts

    if config.model.embedding == "private":
        return EmbeddingUnderMpc(
            runtime,
            transformer,
            data_owner,
            model_owner,
            share_shifts or share_known,
            prompt_tokens=config.tuning.prompt_tokens,
        )
    if share_shifts is not None:
        return TextsAtHome(runtime, transformer, data_owner, share_shifts)
    return EmbeddingAtHome(runtime, data_owner)
