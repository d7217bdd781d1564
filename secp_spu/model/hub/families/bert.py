"""BERT: an encoder with token types and a masked-LM head."""

import re

from secp_spu.model.hub.families.family import DENSE, NORM, TABLE, Family, Module, masked_head

BERT = Family(
    classes="Bert",
    head_class="ForMaskedLM",
    prefix="bert.",
    embeddings=(
        Module("word", TABLE, ("embeddings.word_embeddings",), ("vocab_size", "width")),
        Module("position", TABLE, ("embeddings.position_embeddings",), ("max_positions", "width")),
        Module("type", TABLE, ("embeddings.token_type_embeddings",), ("type_vocab_size", "width")),
        Module("norm", NORM, ("embeddings.LayerNorm",), ("width",)),
    ),
    layer=(
        Module(
            "query_key_value",
            DENSE,
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            ("width", "width"),
        ),
        Module("attention_output", DENSE, ("attention.output.dense",), ("width", "width")),
        Module("attention_norm", NORM, ("attention.output.LayerNorm",), ("width",)),
        Module("intermediate", DENSE, ("intermediate.dense",), ("intermediate", "width")),
        Module("output", DENSE, ("output.dense",), ("width", "intermediate")),
        Module("output_norm", NORM, ("output.LayerNorm",), ("width",)),
    ),
    layer_prefix="encoder.layer.",
    attention_prefix="attention.self.",
    activation_prefix="intermediate.activation.",
    head=masked_head(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"
    ),
    decoder_bias="cls.predictions.bias",
    ignored=re.compile(
        r"((bert|roberta)\.)?(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
        r"|cls\.seq_relationship\.(weight|bias)"
    ),
    padding_id=0,
    counts_from_padding=False,
    head_activation=None,
    sizes={
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate": "intermediate_size",
        "max_positions": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
    },
    activation=("hidden_act", "gelu"),
    epsilon=("layer_norm_eps", 1e-12),
    fixed={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
)
