"""Configurations: YAML files and KEY=VALUE settings, validated into one object for every command and party."""

from secp_spu.config.cluster_section import (
    LIMITED,
    LIMITS_FILE,
    SERVERS,
    AddressSection,
    ClusterSection,
    LimitsSection,
    ListenSection,
    ServerKey,
    TlsSection,
    port_of,
)
from secp_spu.config.loading import load_config, save_config
from secp_spu.config.model_section import ModelSection
from secp_spu.config.run_config import Config
from secp_spu.config.section import OWNERS, PACKAGE_PREFIX, Role
from secp_spu.config.task_section import TaskSection
from secp_spu.config.tuning_section import InitialPromptSection, OptimizerKind, TuningSection

__all__ = [
    "LIMITED",
    "LIMITS_FILE",
    "OWNERS",
    "PACKAGE_PREFIX",
    "SERVERS",
    "AddressSection",
    "ClusterSection",
    "Config",
    "InitialPromptSection",
    "LimitsSection",
    "ListenSection",
    "ModelSection",
    "OptimizerKind",
    "Role",
    "ServerKey",
    "TaskSection",
    "TlsSection",
    "TuningSection",
    "load_config",
    "port_of",
    "save_config",
]
