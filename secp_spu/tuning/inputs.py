"""What a data owner shares of its texts and prompts: embeddings, or one-hot rows and shifts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import numpy.typing as npt

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.inference import SHIFT_BITS, one_hot, other_tables
from secp_spu.model import SUM_BITS, Embeddings, hidden_bits, load_embeddings, load_transformer_config
from secp_spu.protocol import to_storage
from secp_spu.trees import Floats, Ints
from secp_spu.tuning.logits import LARGEST_LIMIT, check_limit
from secp_spu.tuning.prompt import SoftPrompt
from secp_spu.tuning.task import TaskTokenizer, TokenBatch

Split = Literal["training", "validation", "test", "new"]
TokenSet = Literal["training", "validation", "test", "new", "labels", "prompt"]
PromptSet = Literal["untuned", "candidates", "finalists", "leaders", "best"]


class Tables:
    """The embedding tables, at a data owner that has them.

    Args:
        folder: that holds them.
        folded: the first layer takes in gain and shift of the embeddings' norm (`Config.folds_embeddings`).
    Raises: CheckpointError.
    """

    def __init__(self, folder: Path, *, folded: bool = False):
        transformer, params = load_embeddings(folder)
        self.words: Floats = params["word"]["embedding"]
        self._first_position, self._rest = transformer.position_offset, other_tables(params)
        if folded and "norm" in params:
            params = {**params, "norm": {"scale": np.ones(transformer.width), "bias": np.zeros(transformer.width)}}
        self._embed = jax.jit(
            partial(Embeddings(transformer).apply, {"params": params}), static_argnames=("first_position",)
        )

    def embed(self, vectors: Floats, first_position: int = 0) -> npt.NDArray[np.float32]:
        """Word embeddings or soft prompts with their positions, normalised [batch, tokens, width].

        Args:
            vectors: [batch, tokens, width].
            first_position: how many tokens stand before them.
        """
        return np.asarray(self._embed(vectors, first_position=first_position))

    def start(self, vectors: Floats) -> tuple[Floats, Floats]:
        """What `PromptEmbedding` has of a soft prompt [prompt_tokens, width]: `placed` and `deviation`."""
        first = self._first_position
        placed = to_storage(vectors, SUM_BITS) + self._rest["places"][first : first + len(vectors)]
        return placed.astype(np.float32), self._rest["deviation"]

    def pull_back(self, vectors: Floats, cotangent: Floats) -> npt.NDArray[np.float32]:
        """The cotangent of soft prompts by that of what `embed` makes of them, both [batch, tokens, width]."""
        _, pull_back = jax.vjp(self._embed, np.asarray(vectors, np.float32))
        return np.asarray(pull_back(np.asarray(cotangent, np.float32))[0])


class InputOwner:
    """What a data owner shares, for tuning and for predicting alike; methods are called by name by the driver.

    Args:
        config: of the run.
    Raises: ConfigError for a task, tokenizer or prompt length that does not fit; CheckpointError.

    Attributes:
        _tokens: the texts, by split; a subclass reads them.
        _initial: what the prompts have in common.
        _logit_limit: the size that no logit exceeds.
    """

    _tokens: Mapping[Split, TokenBatch]
    _initial: SoftPrompt
    _logit_limit: float = LARGEST_LIMIT

    def __init__(self, config: Config):
        self._config = config
        self._by_words = config.model.head == "label_words"
        self._transformer = load_transformer_config(config.model.folder)
        at_home = config.model.embedding == "data_owner"
        self._tables = Tables(config.model.folder, folded=config.folds_embeddings) if at_home else None
        self._tokenizer = TaskTokenizer(config.model.folder / "tokenizer.json", causal=self._transformer.causal)
        self._descriptions = None if self._by_words else self._tokenizer.encode_descriptions(config.task)
        self._check_length(self._transformer.max_positions - self._transformer.position_offset)
        self._word_ids = self._tokenizer.label_word_ids(config.task.labels) if self._by_words else []

    def _check_length(self, positions: int) -> None:
        if self._descriptions:
            longest = self._descriptions.token_ids.shape[1]
            if longest > positions:
                raise ConfigError(
                    f"a text of task.labels has {longest} tokens, but the model {positions} positions: shorten it"
                )
        wanted = self._config.task.max_tokens + self._config.tuning.prompt_tokens
        if wanted > positions:
            raise ConfigError(
                f"task.max_tokens + tuning.prompt_tokens is {wanted}, but the model has {positions} positions: lower "
                "one of them"
            )

    def label_word_ids(self) -> list[int]:
        """The label words' tokens, none for the label-embedding head; everybody may know them."""
        return self._word_ids

    def expect_logits(self, limit: float) -> None:
        """Take the bound of the logits that the model owner names.

        Raises: RuntimeFailure for one that cannot be.
        """
        self._logit_limit = check_limit(limit)

    def sizes(self) -> dict[Split, int]:
        """How many texts each split has; everybody may know."""
        return {split: len(tokens.token_ids) for split, tokens in self._tokens.items()}

    def inputs(self, split: Split, first: int, last: int) -> dict[str, npt.NDArray[np.generic]]:
        """Texts first..last - 1 of a split, for sharing: fields of `runtime.Batch`.

        Without embedding tables `keep`, 1 for tokens and 0 for padding [texts, tokens], instead of `hidden`.
        """
        tokens = self._tokens[split]
        some = slice(first, last)
        part = TokenBatch(tokens.token_ids[some], tokens.padding_mask[some], tokens.mask_row[some])
        return self._model_inputs(part, self._config.tuning.prompt_tokens)

    def label_inputs(self) -> dict[str, npt.NDArray[np.generic]]:
        """The same of the labels' describing texts, for the label-embedding head; no prompt stands before them."""
        return self._model_inputs(self._described, 0)

    @property
    def _described(self) -> TokenBatch:
        if self._descriptions is None:
            raise ConfigError("model.head is label_words: its labels have no descriptions")
        return self._descriptions

    def _model_inputs(self, tokens: TokenBatch, prompt_tokens: int) -> dict[str, npt.NDArray[np.generic]]:
        ones = np.ones((len(tokens.token_ids), prompt_tokens), np.float32)
        padding_mask = np.concatenate([ones, tokens.padding_mask], 1)
        readout = np.concatenate([0 * ones, tokens.mask_row], 1)
        if not self._by_words:
            readout = padding_mask / padding_mask.sum(1, keepdims=True)
        rows = {"padding_mask": padding_mask, "readout": readout}
        if self._tables is None:
            return {"keep": tokens.padding_mask.astype(np.int32), **rows}
        hidden = self._tables.embed(self._tables.words[tokens.token_ids], prompt_tokens)
        return {"hidden": self._for_layers(hidden * tokens.padding_mask[..., None]), **rows}

    def one_hot(self, which: TokenSet, tokens: range, rows: range) -> npt.NDArray[np.int32]:
        """Tokens of a set, counted through its texts with their padding, among rows of the vocabulary.

        Returns: int32 [tokens, rows].
        """
        if which == "prompt":
            ids: Ints = self._initial.tokens
        else:
            ids = (self._described if which == "labels" else self._tokens[which]).token_ids
        return one_hot(ids.reshape(-1)[tokens.start : tokens.stop], rows)

    def start(self) -> tuple[Floats, Floats]:
        """What `PromptEmbedding` has of p0 without its shift: `placed` and `deviation`."""
        if self._tables is None:
            raise ConfigError("model.embedding is private: the compute parties look p0 up")
        return self._tables.start(self._initial.moved(np.zeros_like(self._initial.shift), self._tables.words))

    def start_shift(self) -> Floats:
        """The shift of p0, which prompts are shifted from, for sharing [prompt_tokens, width]."""
        return to_storage(self._initial.shift.astype(np.float32), SHIFT_BITS)

    def _for_sharing(self, shifts: Floats) -> Floats:
        """Prompts, ready for the first layer; without embedding tables what is to be added to `_initial.start`.

        Args:
            shifts: of `_initial` [prompts, prompt_tokens, width].
        """
        if self._tables is None:
            return to_storage(shifts.astype(np.float32), SHIFT_BITS)
        return self._for_layers(self._tables.embed(self._initial.moved(shifts, self._tables.words)))

    def _of_shifts(self, shifts: Floats, of_shared: Floats) -> Floats:
        """The derivative by shifts of `_initial`, by that of what `_for_sharing` makes of them, both likewise.

        Without embedding tables the compute parties have pulled it back already.
        """
        if self._tables is None:
            return of_shared
        vectors = self._initial.moved(shifts, self._tables.words)
        found: Floats = self._tables.pull_back(vectors, of_shared) * float(self._tables.words.std())
        return found

    def _for_layers(self, embedded: Floats) -> Floats:
        """Embeddings, encoded as the layers take hidden states."""
        return to_storage(embedded, hidden_bits(self._transformer))
