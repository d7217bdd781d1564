"""GPT-2: a decoder, whose head is its last norm and the table of word embeddings."""

import re

from secp_spu.model.hub.families.family import DENSE, NORM, TABLE, Family, Module

GPT2 = Family(
    classes="GPT2",
    head_class="LMHeadModel",
    prefix="transformer.",
    embeddings=(
        Module("word", TABLE, ("wte",), ("vocab_size", "width")),
        Module("position", TABLE, ("wpe",), ("max_positions", "width")),
    ),
    layer=(
        Module("attention_norm", NORM, ("ln_1",), ("width",)),
        Module("query_key_value", DENSE, ("attn.c_attn",), ("width", "projected"), transposed=False),
        Module("attention_output", DENSE, ("attn.c_proj",), ("width", "width"), transposed=False),
        Module("intermediate_norm", NORM, ("ln_2",), ("width",)),
        Module("intermediate", DENSE, ("mlp.c_fc",), ("width", "intermediate"), transposed=False),
        Module("output", DENSE, ("mlp.c_proj",), ("intermediate", "width"), transposed=False),
    ),
    layer_prefix="h.",
    attention_prefix="attn.",
    activation_prefix="mlp.activation.",
    head=(
        Module("norm", NORM, ("transformer.ln_f",), ("width",)),
        Module("decoder", {"kernel": "weight"}, ("lm_head",), ("vocab_size", "width")),
    ),
    decoder_bias=None,
    ignored=re.compile(r"transformer\.h\.\d+\.attn\.(masked_)?bias"),
    padding_id=None,
    counts_from_padding=False,
    head_activation=None,
    sizes={
        "vocab_size": "vocab_size",
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "intermediate": "n_inner",
        "max_positions": "n_positions",
    },
    activation=("activation_function", "gelu_new"),
    epsilon=("layer_norm_epsilon", 1e-5),
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    causal=True,
)
