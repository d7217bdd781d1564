"""The data owner: texts, labels, prompts, losses and the optimizer, all of which stay with it in plaintext."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from secp_spu.config import Config, ConfigError
from secp_spu.model import Embeddings, hidden_bits, load_embeddings, load_encoder_config
from secp_spu.protocol import lower
from secp_spu.runtime import SHIFT_BITS, one_hot
from secp_spu.tuning.loss import accuracy, losses
from secp_spu.tuning.optimizer import fingerprint, make_optimizer
from secp_spu.tuning.prompt import PromptSpace, save_prompt, save_unembedded_prompt
from secp_spu.tuning.record import Generation, Usage, open_run
from secp_spu.tuning.report import describe_generation, write_report
from secp_spu.tuning.task import Example, TaskTokenizer, TokenBatch, draw_few_shot, read_examples

Split = Literal["training", "validation", "test"]
TokenSet = Literal["training", "validation", "test", "labels", "prompt"]
PromptSet = Literal["untuned", "candidates", "finalists", "best"]


@dataclass(frozen=True)
class Texts:
    """A set of the data owner's texts, as the model wants them, and their labels."""

    tokens: TokenBatch
    labels: np.ndarray


class Tables:
    """The embedding tables, at a data owner that has them.

    Args:
        folder: that holds them.
    Raises: CheckpointError.
    """

    def __init__(self, folder: Path):
        encoder, params = load_embeddings(folder)
        self._embed = jax.jit(
            partial(Embeddings(encoder).apply, {"params": params}), static_argnames=("first_position",)
        )
        self.words: np.ndarray = params["word"]["embedding"]

    def embed(self, vectors: np.ndarray, first_position: int = 0) -> np.ndarray:
        """Word embeddings or soft prompts with their positions, normalised [batch, tokens, width].

        Args:
            vectors: [batch, tokens, width].
            first_position: how many tokens stand before them.
        """
        return np.asarray(self._embed(vectors, first_position=first_position))


class DataOwner:
    """What only the data owner may see, with the methods that the driver calls by name.

    Args:
        config: of the run.
        folder: for the outputs and the run's record, which is written after every generation.
        resume: go on with the run in the folder, whose optimizer is replayed.
    Raises: ConfigError for a task, tokenizer or record that does not fit.
    """

    def __init__(self, config: Config, folder: Path, *, resume: bool):
        self._config, self._record, self._folder = config, open_run(folder, config, resume=resume), folder
        self._by_words = config.model.head == "label_words"
        encoder = load_encoder_config(config.model.folder)
        self._tables = Tables(config.model.folder) if config.model.embedding == "data_owner" else None
        self._tokenizer = TaskTokenizer(config.model.folder / "tokenizer.json", causal=encoder.causal)
        self._hidden_bits = hidden_bits(encoder)
        self._descriptions = None if self._by_words else self._tokenizer.encode_descriptions(config.task)
        self._check_length(encoder.max_positions - encoder.position_offset)
        self._texts = self._read_texts()
        self._word_ids = self._tokenizer.label_word_ids(config.task.labels) if self._by_words else []
        tuning = config.tuning
        self._space = PromptSpace.random(
            (encoder.vocab_size, encoder.width),
            tuning.prompt_tokens,
            tuning.intrinsic_dim,
            rng=np.random.default_rng([self._record.seed, 1]),
            alpha=tuning.alpha,
            sigma=tuning.sigma,
        )
        self._optimizer = make_optimizer(
            tuning.optimizer,
            tuning.intrinsic_dim,
            tuning.population,
            tuning.sigma,
            [self._record.seed, 2],
            labels=self._texts["training"].labels,
        )
        self._replay()
        self._candidates = np.zeros((0, tuning.intrinsic_dim))
        self._finalists = self._candidates

    def _check_length(self, positions: int) -> None:
        if self._descriptions:
            longest = self._descriptions.token_ids.shape[1]
            if longest > positions:
                raise ConfigError(f"a text of task.labels has {longest} tokens, the model only {positions} positions")
        wanted = self._config.task.max_tokens + self._config.tuning.prompt_tokens
        if wanted > positions:
            raise ConfigError(
                f"task.max_tokens + tuning.prompt_tokens is {wanted}, but the model has {positions} positions"
            )

    def _read_texts(self) -> dict[Split, Texts]:
        section = self._config.task
        pool, test = read_examples(section.pool, section), read_examples(section.test, section)
        training, validation = draw_few_shot(pool, section, self._record.seed)
        splits: dict[Split, list[Example]] = {
            "training": training,
            "validation": validation,
            "test": test[: section.test_examples],
        }
        return {
            name: Texts(self._tokenizer.encode(examples, section), np.array([e.label for e in examples]))
            for name, examples in splits.items()
        }

    def _replay(self) -> None:
        """Bring a fresh optimizer to where the recorded run stopped."""
        for number, done in enumerate(self._record.generations, 1):
            if fingerprint(self._optimizer.ask()) != done.candidates:
                raise ConfigError(
                    f"{self._folder}: the candidates of generation {number} come out different on this machine: "
                    "resume where the run was started"
                )
            self._optimizer.tell(np.array(done.losses), np.array(done.logits))

    def begin(self) -> None:
        """Claim the folder for this run."""
        self._record.save(self._folder)

    def label_word_ids(self) -> list[int]:
        """The label words' tokens, none for the label-embedding head; everybody may know them."""
        return self._word_ids

    def sizes(self) -> dict[Split, int]:
        """How many texts each split has; everybody may know."""
        return {name: len(texts.labels) for name, texts in self._texts.items()}

    def inputs(self, split: Split, first: int, last: int) -> dict[str, np.ndarray]:
        """Texts first..last - 1 of a split, for sharing: fields of `runtime.Batch`.

        Without embedding tables `keep`, 1 for tokens and 0 for padding [texts, tokens], instead of `hidden`.
        """
        tokens = self._texts[split].tokens
        part = TokenBatch(*(a[first:last] for a in (tokens.token_ids, tokens.padding_mask, tokens.mask_row)))
        return self._model_inputs(part, self._config.tuning.prompt_tokens)

    def label_inputs(self) -> dict[str, np.ndarray]:
        """The same of the labels' describing texts, for the label-embedding head; no prompt stands before them."""
        return self._model_inputs(self._described, 0)

    @property
    def _described(self) -> TokenBatch:
        if self._descriptions is None:
            raise ConfigError("model.head is label_words: its labels have no descriptions")
        return self._descriptions

    def _model_inputs(self, tokens: TokenBatch, prompt_tokens: int) -> dict[str, np.ndarray]:
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

    def one_hot(self, which: TokenSet, tokens: range, rows: range) -> np.ndarray:
        """Tokens of a set, counted through its texts with their padding, among rows of the vocabulary.

        Returns: int32 [tokens, rows].
        """
        if which == "prompt":
            ids = self._space.initial_tokens
        else:
            ids = (self._described if which == "labels" else self._texts[which].tokens).token_ids
        return one_hot(ids.reshape(-1)[tokens.start : tokens.stop], rows)

    def prompts(self, which: PromptSet, first: int, last: int) -> np.ndarray:
        """Prompts first..last - 1 of a set, ready for the first layer [prompts, prompt_tokens, width].

        Without embedding tables what is to be added to p0, in standard deviations of the word embeddings.
        """
        points = {
            "untuned": np.zeros((1, self._config.tuning.intrinsic_dim)),
            "candidates": self._candidates,
            "finalists": self._finalists,
            "best": np.array([self._record.best]),
        }[which][first:last]
        if self._tables is None:
            return lower(self._space.shifts(points).astype(np.float32), SHIFT_BITS)
        return self._for_layers(self._tables.embed(self._space.prompts(points, self._tables.words)))

    def _for_layers(self, embedded: np.ndarray) -> np.ndarray:
        """Embeddings, encoded as the layers take hidden states."""
        return lower(embedded, self._hidden_bits)

    def ask(self) -> None:
        """Propose the next generation's candidates."""
        self._candidates = self._optimizer.ask()

    def tell(self, logits: list[list[np.ndarray]]) -> None:
        """Take the candidates' logits on the training texts, and propose two finalists.

        Args:
            logits: for each part of the candidates those of each batch of texts.
        """
        answers = np.concatenate([self._answers("training", part) for part in logits])
        told = self._losses("training", answers)
        if not np.isfinite(told).all():
            raise ConfigError("losses are not finite: take a smaller tuning.alpha, or look for overflow in the model")
        self._optimizer.tell(told, answers)
        # Only Gauss-Newton's course depends on more than the losses, so only its record has to keep more.
        kept = answers.tolist() if self._config.tuning.optimizer == "gauss-newton" else []
        self._record.generations.append(Generation(fingerprint(self._candidates), told.tolist(), float("inf"), kept))
        self._finalists = np.stack([self._candidates[told.argmin()], self._optimizer.mean])

    def select(self, logits: list[np.ndarray]) -> None:
        """Take the finalists' logits on the validation texts, batch by batch, and keep the best so far."""
        found = self._losses("validation", self._answers("validation", logits))
        record = self._record
        record.generations[-1].validation_loss = float(found.min())
        if found.min() < record.best_validation_loss:
            record.best_validation_loss = float(found.min())
            record.best = self._finalists[found.argmin()].tolist()

    def _losses(self, split: Split, logits: np.ndarray) -> np.ndarray:
        return losses(self._config.tuning.loss, logits, self._texts[split].labels)

    def _answers(self, split: Split, batches: list[np.ndarray]) -> np.ndarray:
        """Logits [prompts, texts, labels] from those of batches of texts, [prompts * texts, labels] each."""
        prompts = sum(len(batch) for batch in batches) // len(self._texts[split].labels)
        return np.concatenate([batch.reshape(prompts, -1, batch.shape[-1]) for batch in batches], axis=1)

    def standing(self) -> tuple[float, float]:
        """The last generation's least loss and the selected prompt's validation loss, for measurements."""
        record = self._record
        return min(record.generations[-1].losses), record.best_validation_loss

    def test_accuracy(self, logits: list[np.ndarray]) -> float:
        """Accuracy of logits on the test texts, given part by part."""
        return accuracy(np.concatenate(logits), self._texts["test"].labels)

    def public_state(self) -> dict[str, Any]:
        """How far the run is and what it took: everybody may know."""
        record = self._record
        tested = record.accuracy_before is not None
        return {"generations": len(record.generations), "tested": tested, **asdict(record.usage)}

    def take_untuned(self, logits: list[np.ndarray]) -> str:
        """Take the untuned prompt's logits on the test texts, part by part; returns a line for the data owner."""
        found = self._record.accuracy_before = self.test_accuracy(logits)
        return f"untuned prompt: accuracy {found:.3f} on {len(self._texts['test'].labels)} unseen texts"

    def save(self, usage: Usage) -> str | None:
        """Write the checkpoint; returns, after a generation, a line for the data owner on what it brought and took."""
        record = self._record
        before, record.usage = record.usage, usage
        record.save(self._folder)
        return describe_generation(record, before) if record.generations else None

    def finish(self, logits: list[np.ndarray], usage: Usage, ledger: dict[str, Any], batching: dict[str, Any]) -> None:
        """Take the selected prompt's logits on the test texts, and write all outputs."""
        record = self._record
        record.accuracy_after, record.usage = self.test_accuracy(logits), usage
        self._save_prompt(np.array([record.best]))
        write_report(self._folder, self._config, record, {"batching": batching, "ledger": ledger})
        record.save(self._folder)

    def _save_prompt(self, point: np.ndarray) -> None:
        path = self._folder / "prompt.safetensors"
        if self._tables is None:
            save_unembedded_prompt(path, self._space.initial_tokens, self._space.shifts(point)[0])
        else:
            save_prompt(path, self._space.prompts(point, self._tables.words)[0])
