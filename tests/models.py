"""Models that tests share besides the demo's."""

from pathlib import Path

RFA_MODEL = Path(__file__).parent.parent / "configs" / "rfa" / "model"
"""That of configs/demo-rfa.yaml: a RoBERTa of width 128 with random features and relu."""
