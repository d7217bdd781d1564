"""What one would run otherwise, under the same MPC: training by backpropagation, with Adam, on secret weights."""

from secp_spu.baseline.adam import LOSS_SCALE, Adam
from secp_spu.baseline.backpropagation import TrainingTexts
from secp_spu.baseline.fine_tuning import FineTuning
from secp_spu.baseline.prompt_tuning import GradientPromptTuning

__all__ = ["LOSS_SCALE", "Adam", "FineTuning", "GradientPromptTuning", "TrainingTexts"]
