"""The shared model that answers the data owner's texts: what tuning and predicting have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jax import Array

from secp_spu.config import Config
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.inference import BackwardPass, Batch, SecureModel
from secp_spu.model import TransformerConfig
from secp_spu.model.backward import lacks_backward
from secp_spu.progress import Progress
from secp_spu.runtime import Actor, Owned, Runtime, Stored
from secp_spu.tuning.announced import require_announced, require_shape
from secp_spu.tuning.batching import sequences_that_fit
from secp_spu.tuning.directions import Directions
from secp_spu.tuning.embedding import Embedding, make_embedding
from secp_spu.tuning.inputs import PromptSet, Split
from secp_spu.tuning.parties import DATA_OWNER


@dataclass(frozen=True)
class SharedModel:
    """A model at the compute parties, and the way to it for texts and prompts.

    Attributes:
        runtime: that has it.
        model: its layers and head.
        embedding: of texts and prompts.
        most: sequences that one pass may have, with what it keeps for the way back.
        prompt_tokens: of every prompt.
        way_back: for gradients, if the run's optimizer wants them and this party's configuration allows them.
        directions: of gradients that stay in shares.
    """

    runtime: Runtime
    model: SecureModel
    embedding: Embedding
    most: int
    prompt_tokens: int
    way_back: BackwardPass | None = None
    directions: Directions | None = None

    def prompts(self, which: PromptSet, first: int, last: int) -> Stored:
        """Prompts first..last - 1 of a set [prompts, prompt_tokens, width].

        Raises: RuntimeFailure if the data owner has shared another number of them.
        """
        stored = self.embedding.prompts(which, first, last)
        require_shape(stored, (last - first, self.prompt_tokens, self.model.config.width), "prompts")
        return stored

    def texts(self, split: Split, first: int, last: int) -> Batch:
        """Texts first..last - 1 of a split.

        Raises: RuntimeFailure if the data owner has shared another number of them.
        """
        batch = self.embedding.texts(split, first, last)
        for handle in batch.handles:
            require_announced(handle.spec.shape[0], last - first, "texts")
        return batch

    def answer(self, prompts: Stored, batch: Batch) -> Owned:
        """Logits of every prompt before every text, opened to the data owner alone [prompts * texts, labels]."""
        return self._opened(self.model.logits(prompts, batch))

    def opened_gradient(self, batches: Sequence[tuple[range, Batch]], data_owner: Actor) -> tuple[list[Owned], Owned]:
        """Logits of the prompt that was asked for last, and the derivative of its summed loss.

        Args:
            batches: of the training texts, with their numbers.
            data_owner: actor of a DataOwner, which gives the derivative by the logits.
        Returns: logits by batch; and the derivative by what the data owner shares of a prompt, summed over all texts
            before it is opened to the data owner alone, encoded with SUM_BITS [1, prompt_tokens, width].
        Raises: ConfigError where no gradients were asked for when the model was shared, or they are to stay in shares;
            RuntimeFailure if the data owner has shared something else than was announced.
        """
        if self.directions is not None:
            raise ConfigError("this model was shared for gradients that stay in shares: none is opened")
        answers, gradient = self._gradient(batches, data_owner)
        return answers, self._opened(gradient)

    def unseen_step(self, batches: Sequence[tuple[range, Batch]], data_owner: Actor) -> tuple[list[Owned], str, Owned]:
        """The same with a gradient that stays in shares.

        Returns: logits by batch; and a nonce and the direction behind a mask, see `Directions.take`.
        """
        if self.directions is None:
            raise ConfigError("this model was shared without directions")
        answers, gradient = self._gradient(batches, data_owner)
        return answers, *self.directions.take(gradient)

    def _gradient(self, batches: Sequence[tuple[range, Batch]], data_owner: Actor) -> tuple[list[Owned], Stored]:
        if self.way_back is None:
            raise ConfigError("this model was shared without a way back: no gradient is computed")
        prompts, kept_prompts = self.embedding.prompts_keeping("candidates", 0, 1)
        require_shape(prompts, (1, self.prompt_tokens, self.model.config.width), "a prompt")
        answers, parts = [], []
        for part, batch in batches:
            logits, kept = self.model.logits_and_kept(prompts, batch)
            shape = logits.spec.shape
            answers.append(self._opened(logits))
            slopes: Stored = self.runtime.share(data_owner.cotangents(part.start, part.stop, answers[-1]))
            require_shape(slopes, shape, "derivatives by logits")
            parts.append(self.way_back.prompts(kept, slopes, self.prompt_tokens))
            self.runtime.free(slopes)
        total: Stored = self.runtime.run("sum.backward", _sum, parts)
        self.runtime.free([prompts, parts])
        return answers, self.embedding.pull_back(kept_prompts, total)

    def _opened(self, values: Stored) -> Owned:
        """To the data owner alone."""
        opened = self.runtime.open_to(DATA_OWNER, values)
        self.runtime.free(values)
        return opened


def _sum(parts: Sequence[Array]) -> Array:
    """Local."""
    return sum(parts[1:], start=parts[0])


def sizes_of(runtime: Runtime, data_owner: Actor) -> dict[Split, int]:
    """How many texts the data owner has of each split, by its own word.

    Raises: RuntimeFailure for what is no number of texts.
    """
    sizes: dict[Split, int] = runtime.disclose(data_owner.sizes())
    if not isinstance(sizes, dict) or any(type(size) is not int or size < 1 for size in sizes.values()):
        raise RuntimeFailure("the data owner announces no numbers of texts: install the same secp-spu at all parties")
    return sizes


def share_model(
    runtime: Runtime,
    config: Config,
    owners: tuple[Actor, Actor],
    progress: Progress,
    *,
    more_steps: int = 0,
    gradients: bool = False,
) -> SharedModel:
    """Share the model's weights and, for the label-embedding head, compute the labels' embeddings. Once, as set-up.

    Args:
        runtime: where it runs.
        config: of the run.
        owners: actors of an InputOwner and a ModelOwner.
        progress: told of every step.
        more_steps: of the same stage that the caller will make.
        gradients: the caller will ask for `opened_gradient` or `unseen_step`, as the optimizer says.
    Raises: ConfigError if gradients are wanted and not allowed, or the model has no backward pass.
    """
    data_owner, model_owner = owners
    by_words = config.model.head == "label_words"
    word_ids = runtime.disclose(data_owner.label_word_ids())
    require_announced(len(word_ids), len(config.task.labels) if by_words else 0, "label words")
    transformer = runtime.disclose(model_owner.transformer_config())
    if gradients:
        _require_backward(config, transformer)
    progress.stage("set-up", transformer.layers * (1 if by_words else 2) + more_steps)
    with runtime.ledger.phase("setup"):
        layers = []
        for number in range(transformer.layers):
            public = runtime.publish(runtime.disclose(model_owner.layer_public(number)))
            layers.append({"params": runtime.share(model_owner.layer(number)), "public": public})
            progress.step()
        head = runtime.share(model_owner.label_word_head(word_ids) if by_words else model_owner.last_norm())
        data_owner.expect_logits(runtime.disclose(model_owner.logit_limit(word_ids)))
        model = SecureModel(runtime, transformer, layers, head, len(config.task.labels), on_layer=progress.step)
        prompt_tokens = config.tuning.prompt_tokens
        directions = None
        if gradients:
            text_tokens = config.task.max_tokens
            data_owner.expect_steepness(runtime.disclose(model_owner.steepness(prompt_tokens, text_tokens)))
            if config.tuning.hides_gradients:
                shape = prompt_tokens, transformer.width
                directions = Directions(runtime, owners, shape, config.tuning.generations)
        embedding = make_embedding(runtime, config, transformer, owners, directions.shifts if directions else None)
        # After the tables, which may be the largest of all weights and stay as long as texts are looked up.
        way_back = BackwardPass(model) if gradients else None
        tokens = prompt_tokens + config.task.max_tokens
        most = sequences_that_fit(runtime, transformer, tokens, keeping=gradients)
        if not by_words:
            descriptions = embedding.labels()
            require_announced(descriptions.hidden.spec.shape[0], len(config.task.labels), "descriptions of labels")
            model.embed_labels(descriptions)
            runtime.free(descriptions.handles)
    return SharedModel(runtime, model, embedding, most, prompt_tokens, way_back, directions)


def _require_backward(config: Config, transformer: TransformerConfig) -> None:
    """Refuse gradients before anything is shared.

    Raises: ConfigError where this party's configuration does not allow them, or the model has no backward pass.
    """
    if config.tuning.opens_gradients and config.model.reveal != "gradients":
        raise ConfigError("model.reveal: is logits, so no gradient is opened: set it to gradients at all parties")
    missing = lacks_backward(transformer)
    if missing is None:
        return
    remedy = {"activation gelu": "set model.activation: gelu_tanh, or adapt the model (secp-spu adapt)"}
    raise ConfigError(
        f"tuning.optimizer: {config.tuning.optimizer} takes a backward pass, and {missing} has none: "
        f"{remedy.get(missing, 'take another model')}, or take a gradient-free optimizer such as cma"
    )
