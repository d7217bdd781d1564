"""A plaintext runtime with little memory, and a progress that remembers: what tests of passes share."""

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.inference import pass_bytes
from secp_spu.model import load_transformer_config
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning.batching import MEMORY_SHARE

ENCODER = load_transformer_config(load_config(DEMO_CONFIG).model.folder)
TOKENS = 4 + 15


class Small(PlaintextRuntime):
    """With room for so many sequences of the demo."""

    def __init__(self, sequences):
        super().__init__()
        self._free = int(pass_bytes(ENCODER, sequences, TOKENS) / MEMORY_SHARE) + 1

    def free_memory_bytes(self):
        return self._free


class Stages(Progress):
    """Keeps the stages, and how many of their steps were done."""

    def __init__(self):
        self.stages = []

    def stage(self, name, steps):
        self.stages.append([name, steps, 0])

    def step(self):
        self.stages[-1][2] += 1
