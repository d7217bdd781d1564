"""A configuration in, the runtime that it asks for out: in this process, simulated, or as one party of a cluster."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from secp_spu.config import Config, ConfigError
from secp_spu.runtime import LocalRuntime, PlaintextRuntime, Runtime

if TYPE_CHECKING:
    from secp_spu.runtime.secretflow import SecretFlowRuntime

Purpose = Literal["tuning", "prediction"]
"""What the parties of a cluster come together for."""

DATA_OWNER = "data_owner"
"""The party that alone sees logits."""


def make_runtime(config: Config) -> Runtime:
    """The runtime that a configuration asks for, with all parties on this machine.

    Raises: ConfigError for a configuration of several machines, or without SecretFlow where it is needed.
    """
    if config.protocol == "plaintext":
        return PlaintextRuntime()
    if config.cluster:
        if config.cluster.addresses:
            raise ConfigError("cluster.addresses name a machine for each party: start each with secp-spu party")
        return _secretflow(config, None)
    return LocalRuntime(config.protocol, config.parties, correlations=config.correlations)


def join_cluster(config: Config, party: str, purpose: Purpose) -> Runtime:
    """One party's runtime of a cluster, when all parties are up and agree on the configuration.

    Args:
        config: of this party.
        party: its name.
        purpose: what the runtime is for, on which all must agree too.
    Raises: ConfigError if they do not agree, or this configuration is none of a cluster with that party.
    """
    if config.cluster is None or config.cluster.addresses is None:
        raise ConfigError("cluster.addresses are missing: they say where each party is")
    versions = {f"the version of {name}": version(name) for name in ("secp-spu", "spu", "jax")}
    facts = versions | config.agreed() | {"what is to be done": purpose}
    return _secretflow(config, party, facts=facts, agree=lambda all_facts: _agree(all_facts, party))


def _agree(facts: dict[str, dict[str, Any]], party: str) -> None:
    """Refuse a cluster whose parties have different configurations or versions."""
    mine = facts[party]
    for other, theirs in facts.items():
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"the parties' configurations differ: {key} is {mine.get(key)!r} at {party}, but "
                    f"{theirs.get(key)!r} at {other}; give all parties the same"
                )


def _secretflow(config: Config, party: str | None, **meeting: Any) -> SecretFlowRuntime:
    """Args: config; party; meeting: `facts` and `agree` of SecretFlowRuntime."""
    if config.cluster is None:
        raise ConfigError("cluster: is missing")
    try:
        from secp_spu.runtime.secretflow import SecretFlowRuntime
    except ImportError as error:
        raise ConfigError(
            f"{error.name or error} cannot be imported, and `cluster:` needs SecretFlow: see 'Installing' in the README"
        ) from error
    return SecretFlowRuntime(config.protocol, config.cluster, party, **meeting)
