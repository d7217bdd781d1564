"""Forward-only tuning: the data owner's side in plaintext, and the driver between it and a runtime."""

from secp_spu.tuning.loss import accuracy, losses
from secp_spu.tuning.model_owner import ModelOwner
from secp_spu.tuning.optimizer import Optimizer, make_optimizer
from secp_spu.tuning.owner import DataOwner
from secp_spu.tuning.progress import Progress
from secp_spu.tuning.prompt import PromptSpace, load_prompt, save_prompt
from secp_spu.tuning.record import RunRecord, Usage, open_run
from secp_spu.tuning.tune import DATA_OWNER, Session, join_cluster, make_runtime, set_up, tune

__all__ = [
    "DATA_OWNER",
    "DataOwner",
    "ModelOwner",
    "Optimizer",
    "Progress",
    "PromptSpace",
    "RunRecord",
    "Session",
    "Usage",
    "accuracy",
    "join_cluster",
    "load_prompt",
    "losses",
    "make_optimizer",
    "make_runtime",
    "open_run",
    "save_prompt",
    "set_up",
    "tune",
]
