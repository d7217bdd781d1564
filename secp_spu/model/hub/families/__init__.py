"""Families of checkpoints: a file for each model type of Hugging Face.

A new one is a file with a `Family` and a line in `FAMILIES`.
"""

from secp_spu.model.hub.families.bert import BERT
from secp_spu.model.hub.families.family import Family
from secp_spu.model.hub.families.gpt2 import GPT2
from secp_spu.model.hub.families.roberta import ROBERTA

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "gpt2": GPT2,
}
"""Families by `model_type` in config.json."""

__all__ = ["FAMILIES", "Family"]
