"""The whole configuration of a run, and what of it all parties must agree on."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from secp_spu.config.cluster_section import ClusterSection
from secp_spu.config.model_section import ModelSection
from secp_spu.config.section import Section
from secp_spu.config.task_section import TaskSection
from secp_spu.config.tuning_section import TuningSection
from secp_spu.trees import JsonObject


class Config(Section):
    """The whole configuration of a run: the protocol, the parties, the model, the task and the tuning."""

    protocol: Literal["aby3", "semi2k", "plaintext"] = Field(
        default="aby3",
        description="The MPC protocol. "
        "`aby3`: three compute parties, of which no two put their views together. "
        "`semi2k`: two or more compute parties, of which the first deals the multiplication triples and could open "
        "every secret with them, so `trusted_first_party` must be true. "
        "`plaintext`: no MPC and no secrecy, for comparison.",
    )
    parties: int = Field(
        default=3,
        ge=2,
        description="Number of compute parties. `aby3` runs among 3 parties, `semi2k` among 2 or more.",
    )
    correlations: Literal["joint", "dealt"] = Field(
        default="joint",
        description="Who makes the correlations: random masks with their cosines and sines, each spent once. "
        "`joint`: the compute parties make them together, and nobody knows a mask. "
        "`dealt`: a dealer makes them and knows every mask, so the dealer must be no owner and no compute party, and "
        "must see no opening. In a cluster `cluster.dealer` names the dealer.",
    )
    trusted_first_party: bool = Field(
        default=False,
        description="Whether the first compute party is trusted with every secret. `semi2k` needs true, because SPU's "
        "published wheels let the first party deal the multiplication triples, and with them it could open everything.",
    )
    cluster: ClusterSection | None = Field(
        default=None,
        description="SecretFlow's parties. Without this section all parties are threads of one process, which sees "
        "everything.",
    )
    model: ModelSection = Field(description="The model owner's model.")
    task: TaskSection = Field(description="The data owner's texts and labels, and how the model reads them.")
    tuning: TuningSection = Field(description="How the prompt is tuned.")

    @model_validator(mode="after")
    def _check_trust(self) -> Config:
        if self.protocol == "aby3" and self.parties != 3:
            raise ValueError(f"parties: is {self.parties}, but aby3 runs among 3")
        if self.protocol == "semi2k" and not self.trusted_first_party:
            raise ValueError(
                "trusted_first_party: is false, but under semi2k the first party deals the multiplication triples and "
                "could open every secret with them: set it to true if that party may be trusted, or take aby3"
            )
        if self.cluster:
            self._check_cluster(self.cluster)
        if self.tuning.opens_gradients and self.model.reveal != "gradients":
            raise ValueError(
                f"model.reveal: is logits, but the optimizer {self.tuning.optimizer} wants gradients of the prompt: "
                "set it to gradients if the data owner may see them, or take momentum, whose gradients stay in shares"
            )
        if self.model.head == "label_words" and "{mask}" not in self.task.template:
            raise ValueError("task.template: has no {mask}, where the label-word head reads")
        return self

    def _check_cluster(self, cluster: ClusterSection) -> None:
        if self.protocol == "plaintext":
            raise ValueError("cluster: protocol plaintext has no use for it; leave it out, or set cluster: null")
        if len(cluster.compute) != self.parties:
            raise ValueError(f"cluster.compute: names {len(cluster.compute)} parties, but parties is {self.parties}")
        if self.correlations == "dealt" and cluster.dealer is None:
            raise ValueError(
                "cluster.dealer: is missing, but correlations are dealt: name a party that is neither an owner nor a "
                "compute party"
            )
        if self.correlations == "joint" and cluster.dealer is not None:
            raise ValueError(f"cluster.dealer: is {cluster.dealer}, but correlations are joint: leave it out")

    @property
    def folds_embeddings(self) -> bool:
        """Whether an encoder's first layer takes in gain and shift of the embeddings' norm, which is under MPC."""
        return self.model.embedding == "private" or self.tuning.hides_gradients

    def agreed(self) -> JsonObject:
        """What the configurations of all parties of a cluster must have in common, by dotted key.

        Keys that are marked OWN are left out: paths, the address where a party listens, the data owner's seed and
        initial prompt, and the model owner's limits. Whether there are certificates must be the same.
        """
        flat: JsonObject = {"cluster.tls": self.cluster is not None and self.cluster.tls is not None}
        for key, value in self.shared().items():
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return flat

    def digest(self) -> str:
        """SHA-256 of `deciding`."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()

    def deciding(self) -> JsonObject:
        """All values that decide a run's course; `generations` may grow when a run is resumed, but for a `schedule`.

        Where the parties are and how they link up does not decide it, nor do paths, but what they lead to: a run may go
        on elsewhere (`tuning.contents`).
        """
        content = self.model_dump(mode="json")
        if self.tuning.schedule == "constant":
            del content["tuning"]["generations"]
        del content["cluster"]
        del content["model"]["folder"], content["task"]["pool"], content["task"]["test"]
        content["task"]["labels"] = list(content["task"]["labels"].items())  # their order numbers the classes
        initial = content["tuning"]["initial_prompt"]
        initial |= {key: initial[key] is not None for key in ("run", "peft")}
        deciding: JsonObject = content
        return deciding
