"""A model owner's weights in, a model that answers the data owner's texts out: what tuning and predicting share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secp_spu.config import Config
from secp_spu.runtime import Batch, Owned, Runtime, SecureModel, Stored
from secp_spu.tuning.batching import sequences_that_fit
from secp_spu.tuning.embedding import Embedding, make_embedding
from secp_spu.tuning.parties import DATA_OWNER
from secp_spu.tuning.progress import Progress


@dataclass(frozen=True)
class SharedModel:
    """A model at the compute parties, and the way to it for texts and prompts.

    Attributes:
        runtime: that has it.
        model: its layers and head.
        embedding: of texts and prompts.
        most: sequences that one pass may have.
    """

    runtime: Runtime
    model: SecureModel
    embedding: Embedding
    most: int

    def answer(self, prompts: Stored, batch: Batch) -> Owned:
        """Logits of every prompt before every text, opened to the data owner alone [prompts * texts, labels]."""
        logits = self.model.logits(prompts, batch)
        opened = self.runtime.open_to(DATA_OWNER, logits)
        self.runtime.free(logits)
        return opened


def share_model(
    runtime: Runtime, config: Config, owners: tuple[Any, Any], progress: Progress, *, more_steps: int = 0
) -> SharedModel:
    """Share the model's weights and, for the label-embedding head, compute the labels' embeddings. Once, as set-up.

    Args:
        runtime: where it runs.
        config: of the run.
        owners: actors of an InputOwner and a ModelOwner.
        progress: told of every step.
        more_steps: of the same stage that the caller will make.
    """
    data_owner, model_owner = owners
    by_words = config.model.head == "label_words"
    word_ids = runtime.disclose(data_owner.label_word_ids())
    encoder = runtime.disclose(model_owner.encoder_config())
    progress.stage("set-up", encoder.layers * (1 if by_words else 2) + more_steps)
    with runtime.ledger.phase("setup"):
        layers = []
        for number in range(encoder.layers):
            public = runtime.publish(runtime.disclose(model_owner.layer_public(number)))
            layers.append({"params": runtime.share(model_owner.layer(number)), "public": public})
            progress.step()
        head = runtime.share(model_owner.label_word_head(word_ids) if by_words else model_owner.last_norm())
        data_owner.expect_logits(runtime.disclose(model_owner.logit_limit(word_ids)))
        model = SecureModel(runtime, encoder, layers, head, len(config.task.labels), on_layer=progress.step)
        prompt_tokens = config.tuning.prompt_tokens
        embedding = make_embedding(runtime, config.model.embedding, encoder, owners, prompt_tokens=prompt_tokens)
        # After the tables, which may be the largest of all weights and stay as long as texts are looked up.
        most = sequences_that_fit(runtime, encoder, prompt_tokens + config.task.max_tokens)
        if not by_words:
            descriptions = embedding.labels()
            model.embed_labels(descriptions)
            runtime.free(descriptions.handles)
    return SharedModel(runtime, model, embedding, most)
