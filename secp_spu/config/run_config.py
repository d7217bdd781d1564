"""The whole configuration of a run, and what of it all parties must agree on."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from secp_spu.config.cluster_section import ClusterSection
from secp_spu.config.model_section import ModelSection
from secp_spu.config.section import Section
from secp_spu.config.task_section import TaskSection
from secp_spu.config.tuning_section import TuningSection


class Config(Section):
    """Everything that a run is made of.

    Attributes:
        protocol: "aby3": three parties of which any two are honest; "semi2k": two or more parties, of which the first
            deals the multiplication triples; "plaintext": no MPC, for comparison.
        parties: how many compute parties.
        correlations: "joint": made by the parties together; "dealt": by a dealer who knows every mask, so it must be no
            compute party and see no opening.
        trusted_first_party: must be true for semi2k: SPU's published wheels let the first party deal the triples, and
            it could open everything with them.
        cluster: SecretFlow's parties; without it all parties are threads of one process.
    """

    protocol: Literal["aby3", "semi2k", "plaintext"] = "aby3"
    parties: Annotated[int, Field(ge=2)] = 3
    correlations: Literal["joint", "dealt"] = "joint"
    trusted_first_party: bool = False
    cluster: ClusterSection | None = None
    model: ModelSection
    task: TaskSection
    tuning: TuningSection

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

    def agreed(self) -> dict[str, Any]:
        """What the configurations of all parties of a cluster must have in common, by dotted key.

        Not among it: paths and where a party listens, which each party has of its own, the data owner's secrets, its
        seed and initial prompt, and the model owner's limits.
        """
        content = self.model_dump(mode="json")
        for address in ((content["cluster"] or {}).get("addresses") or {}).values():
            del address["listen"]
        own = {
            **{"model": {"folder"}, "task": {"pool", "test"}, "tuning": {"seed", "initial_prompt"}},
            "cluster": {"tls", "limits", "log"},
        }
        flat: dict[str, Any] = {"cluster.tls": self.cluster is not None and self.cluster.tls is not None}
        for key, value in content.items():
            if isinstance(value, dict):
                flat |= {f"{key}.{k}": v for k, v in value.items() if k not in own.get(key, set())}
            else:
                flat[key] = value
        return flat

    def digest(self) -> str:
        """SHA-256 of all values that decide a run's course; `generations` may grow when a run is resumed.

        Where the parties are and how they link up does not decide it, nor do paths, but what they lead to: a run may go
        on elsewhere (`tuning.contents`).
        """
        content = self.model_dump(mode="json")
        del content["tuning"]["generations"], content["cluster"]
        del content["model"]["folder"], content["task"]["pool"], content["task"]["test"]
        content["task"]["labels"] = list(content["task"]["labels"].items())  # their order numbers the classes
        initial = content["tuning"]["initial_prompt"]
        initial |= {key: initial[key] is not None for key in ("run", "peft")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
