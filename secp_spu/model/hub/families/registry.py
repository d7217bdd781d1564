"""The families of checkpoints, by `model_type` in config.json: one line each."""

from secp_spu.model.hub.families.bert import BERT
from secp_spu.model.hub.families.family import Family
from secp_spu.model.hub.families.gpt2 import GPT2
from secp_spu.model.hub.families.roberta import ROBERTA

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "gpt2": GPT2,
}
