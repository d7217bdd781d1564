"""Tuning, forward-only or by gradients: the data owner's side in plaintext, and the driver between it and a runtime."""

from secp_spu.progress import Progress
from secp_spu.tuning.data_owner import DataOwner
from secp_spu.tuning.driver import Session, set_up, tune
from secp_spu.tuning.finished_run import export_peft, load_run
from secp_spu.tuning.limits import make_allowance
from secp_spu.tuning.logits import accuracy, losses
from secp_spu.tuning.model_owner import ModelOwner
from secp_spu.tuning.parties import DATA_OWNER, join_cluster, make_runtime
from secp_spu.tuning.peft import load_peft, save_peft
from secp_spu.tuning.predict import Prediction, Predictor, predict, refuse_existing
from secp_spu.tuning.prompt import PromptSpace, SoftPrompt, load_prompt, save_prompt
from secp_spu.tuning.record import RunRecord, Usage, open_run

__all__ = [
    "DATA_OWNER",
    "DataOwner",
    "ModelOwner",
    "Prediction",
    "Predictor",
    "Progress",
    "PromptSpace",
    "RunRecord",
    "Session",
    "SoftPrompt",
    "Usage",
    "accuracy",
    "export_peft",
    "join_cluster",
    "load_peft",
    "load_prompt",
    "load_run",
    "losses",
    "make_allowance",
    "make_runtime",
    "open_run",
    "predict",
    "refuse_existing",
    "save_peft",
    "save_prompt",
    "set_up",
    "tune",
]
