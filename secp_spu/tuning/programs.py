"""Compiles and audits all programs of a configuration's runs; nothing is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.progress import Progress
from secp_spu.runtime import AuditRuntime, Program
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, set_up, tune
from secp_spu.tuning.driver import opened_numbers


@dataclass(frozen=True)
class AuditedRun:
    """What a configuration's runs execute, and what they tell.

    Attributes:
        programs: with their texts and proofs.
        opened: how many numbers a whole run opens to the data owner, by what they are.
    """

    programs: list[Program]
    opened: dict[str, int]


def audit_config(config: Config) -> AuditedRun:
    """Compile every program that tuning with this configuration runs, and prove its openings masked.

    The driver is the real one, on a runtime that compiles and audits but does not execute: one generation goes through
    every program there is.

    Raises: AuditError naming each opening that is not proven; ConfigError for a configuration without MPC; else as
        `tune` does.
    """
    if config.protocol == "plaintext":
        raise ConfigError("protocol: is plaintext, where nothing is masked: set aby3 or semi2k for an audit")
    whole = config
    config = config.model_copy(update={"tuning": config.tuning.model_copy(update={"generations": 1})})
    audit = AuditRuntime(config.protocol, config.parties, correlations=config.correlations)
    with TemporaryDirectory() as folder, audit as runtime:
        data_owner = runtime.actor(DATA_OWNER, DataOwner, config, Path(folder), resume=False)
        session = set_up(runtime, config, data_owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        tune(session)
        return AuditedRun(runtime.programs, opened_numbers(replace(session, config=whole)))
