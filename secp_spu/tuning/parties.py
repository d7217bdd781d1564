"""Makes the runtime that a configuration asks for: in this process, simulated, or as one party of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.runtime import LocalRuntime, PlaintextRuntime, Runtime
from secp_spu.spu_release import require_secretflow
from secp_spu.tuning.agreement import Purpose, facts_of, require_agreement

if TYPE_CHECKING:
    from secp_spu.network.meeting import Facts
    from secp_spu.runtime.secretflow.runtime import SecretFlowRuntime
    from secp_spu.runtime.secretflow.start import Agree

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
    """One party's runtime of a cluster, when all parties are up and agree on what is to be done.

    Args:
        config: of this party.
        party: its name.
        purpose: what the runtime is for, on which all must agree too.
    Raises: ConfigError if they do not agree, or this configuration is none of a cluster with that party.
    """
    if config.cluster is None or config.cluster.addresses is None:
        raise ConfigError("cluster.addresses are missing: they say where each party is")
    facts = facts_of(config, party, purpose)  # what is wrong with this party's files is said before anything starts
    runtime = _secretflow(config, party, facts=facts, agree=lambda everyones: require_agreement(everyones, party))
    cluster = config.cluster
    names = {"data_owner": cluster.data_owner, "model_owner": cluster.model_owner, "compute": cluster.compute}
    try:
        runtime.journal.write("start", purpose=purpose, protocol=config.protocol, versions=facts["versions"], **names)
    except BaseException:
        runtime.abandon()
        raise
    return runtime


def _secretflow(
    config: Config, party: str | None, *, facts: Facts | None = None, agree: Agree = lambda _: None
) -> SecretFlowRuntime:
    """SecretFlow's runtime; the arguments are those of SecretFlowRuntime."""
    if config.cluster is None:
        raise ConfigError("cluster: is missing")
    require_secretflow()
    try:
        from secp_spu.runtime.secretflow.runtime import SecretFlowRuntime
    except ImportError as error:
        raise ConfigError(
            f"{error.name or error} cannot be imported, and `cluster:` needs SecretFlow: see 'Installing' in the README"
        ) from error
    return SecretFlowRuntime(config.protocol, config.cluster, party, facts=facts, agree=agree)
