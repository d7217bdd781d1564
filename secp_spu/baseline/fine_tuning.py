"""Full-parameter fine-tuning under MPC: forward pass, backward pass and Adam, every weight a secret."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from jax import Array

from secp_spu.baseline.adam import Adam, Moments
from secp_spu.baseline.backpropagation import Backpropagation, OnLayer, Segment, TrainingTexts, silent
from secp_spu.inference import look_up, one_hot, parts, setting_of
from secp_spu.model import PLAIN, Norm, Setting, TransformerConfig, apply_module
from secp_spu.protocol import FRACTION_BITS, Fixed, from_storage, to_storage
from secp_spu.runtime import Owned, Runtime, Stored
from secp_spu.trees import Tree

VOCABULARY_ROWS = 8192
"""Rows of word embeddings in one program: their one-hot texts and Adam's arrays have to fit beside each other."""


class FineTuning:
    """Trains embeddings, layers and label-word head on a batch of texts.

    The tokens of the texts are secret, so the word embeddings are read by a product with one-hot rows, and their
    gradient is another. The label words' columns of the decoder are trained apart from the word embeddings that they
    may be tied to.

    Args:
        runtime: where it runs.
        config: of an encoder with softmax attention.
        weights: the model owner's, a pytree: `embeddings` (params of `Embeddings`), `layers` (a list of params of
            `EncoderLayer`), `head` (params of `LabelWordHead`).
        texts: the data owner's `TrainingTexts`, of which `text` is token ids [texts, tokens].
        rate: Adam's learning rate.
        on_layer: called after every layer, forward and back, for progress.
        vocabulary_rows: of the word embeddings; fewer than there are for measurements that scale them up.
    Raises: ValueError for attention by features, and for a decoder.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: TransformerConfig,
        weights: Owned,
        texts: Owned,
        *,
        rate: float,
        on_layer: OnLayer = silent,
        vocabulary_rows: int | None = None,
    ):
        self._runtime = runtime
        labels = texts.value.labels.shape[-1]
        self._passes = Backpropagation(runtime, config, labels, weights=True, on_layer=on_layer)
        self._embed = Segment(runtime, "embeddings", partial(_embed, config))
        setting = setting_of(runtime)
        self._look_up, self._scatter = partial(look_up, setting=setting), partial(_scatter, setting=setting)
        rows = config.vocab_size if vocabulary_rows is None else vocabulary_rows
        with runtime.ledger.phase("setup"):
            tokens = texts.value.padding_mask.shape[1]
            self._words = [runtime.share(words) for words in _word_tables(weights, rows)]
            self._positions = runtime.share(Owned(weights.party, _position_rows(config, weights.value, tokens)))
            self._layers = [runtime.share(Owned(weights.party, params)) for params in weights.value["layers"]]
            self._head = runtime.share(Owned(weights.party, weights.value["head"]))
            self._one_hot = [runtime.share(part) for part in _one_hot_tables(texts, rows)]
            self._texts = runtime.share(Owned(texts.party, _without_text(texts.value)))
        self._adam = Adam(runtime, rate)
        self._moments: dict[str | int, Moments] = {}

    def step(self) -> Stored:
        """One step of Adam on the whole batch; returns the loss before it [], secret."""
        words = self._embed_tokens()
        hidden, residuals = self._embed.forward((words, self._positions))
        self._runtime.free(words)
        loss = self._passes.forward(self._layers, self._head, hidden, self._texts)
        cotangent = self._passes.backward(self._take)
        words_cotangent, positions_gradient = self._embed.backward(residuals, cotangent)
        self._positions = self._update("adam.positions", "positions", self._positions, positions_gradient)
        for i, (tokens, table) in enumerate(zip(self._one_hot, self._words, strict=True)):
            gradient = self._runtime.run("words.backward", self._scatter, tokens, words_cotangent)
            self._words[i] = self._update("adam.words", f"words {i}", table, gradient)
        self._runtime.free(words_cotangent)
        return loss

    @property
    def weights(self) -> Tree:
        """Handles of all weights: as given, but the word embeddings in parts, and only the positions in use."""
        return {"words": self._words, "positions": self._positions, "layers": self._layers, "head": self._head}

    def _embed_tokens(self) -> Stored:
        total: Stored | None = None
        for tokens, table in zip(self._one_hot, self._words, strict=True):
            before = () if total is None else (total,)
            total = self._runtime.run("words.forward", self._look_up, tokens, table, *before)
        if total is None:
            raise ValueError("vocabulary_rows is 0: there are no word embeddings")
        return total

    def _take(self, number: int, gradients: Tree) -> None:
        if number == len(self._layers):
            self._head = self._update("adam.head", "head", self._head, gradients)
        else:
            self._layers[number] = self._update("adam.layer", number, self._layers[number], gradients)

    def _update(self, program: str, key: str | int, weights: Tree, gradients: Tree) -> Tree:
        if key not in self._moments:
            self._moments[key] = self._adam.begin(weights)
        return self._adam.step(program, weights, gradients, self._moments[key])


def _word_tables(weights: Owned, rows: int) -> Iterator[Owned]:
    table = weights.value["embeddings"]["word"]["embedding"]
    for part in parts(rows, VOCABULARY_ROWS):
        yield Owned(weights.party, table[part.start : part.stop])


def _one_hot_tables(texts: Owned, rows: int) -> Iterator[Owned]:
    for part in parts(rows, VOCABULARY_ROWS):
        yield Owned(texts.party, one_hot(texts.value.text, part))


def _position_rows(config: TransformerConfig, weights: Tree, tokens: int) -> Tree:
    """What `_embed` adds and scales: the rows of the positions in use, the first type, the layer norm."""
    embeddings, first = weights["embeddings"], config.position_offset
    rows = embeddings["position"]["embedding"][first : first + tokens]
    return {"position": rows, "type": embeddings["type"]["embedding"][0], "norm": embeddings["norm"]}


def _without_text(texts: TrainingTexts) -> TrainingTexts:
    return TrainingTexts((), texts.padding_mask, texts.readout, texts.labels)


def _embed(config: TransformerConfig, active: tuple[Array, Tree]) -> Array:
    words, table = active
    norm = Norm(config.layer_norm_epsilon)
    hidden: Array = apply_module(norm, {"params": table["norm"]}, words + table["position"] + table["type"])
    return hidden


def _scatter(one_hot: Array, cotangent: Array, *, setting: Setting = PLAIN) -> Array:
    """What `look_up` is to the table: each word's gradient is the sum of its tokens'. Exact, as `look_up` is."""
    columns = one_hot.reshape(-1, one_hot.shape[-1]).T
    rows = from_storage(cotangent.reshape(columns.shape[1], -1), FRACTION_BITS, secure=setting.secure)
    return to_storage((Fixed(columns, 0) if setting.secure else columns) @ rows, FRACTION_BITS)
