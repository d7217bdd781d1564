"""RoBERTa: BERT's layers, with positions that count from the padding id and a head of its own."""

from secp_spu.model.hub.families.bert import BERT
from secp_spu.model.hub.families.family import masked_head

ROBERTA = BERT._replace(
    classes="Roberta",
    prefix="roberta.",
    head=masked_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    decoder_bias="lm_head.bias",
    padding_id=1,
    counts_from_padding=True,
    head_activation="gelu",
)
