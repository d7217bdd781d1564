"""Estimates the memory that a forward pass takes of a compute party.

The constants here, and those that activations say (`Activation.element_bytes`), were measured: the growth of a party's
resident memory at its peak, divided by the number of elements (SPU 0.9.5; the larger of ABY3 and SEMI2K with two
parties). `secp-spu bench batching` measures again, and shows the estimate beside it.
"""

from __future__ import annotations

from secp_spu.model import TransformerConfig, activation_class, attention_class

WIDTH_BYTES = 120
"""Bytes of an element of a hidden state."""

SCORE_BYTES = 140
"""Bytes of a score of softmax attention."""

PAIR_BYTES, KEPT_PAIR_BYTES = 440, 40
"""Bytes of a (cos, sin) pair of attention by features or of a series: while its correlation is made, and while the
correlation waits."""

BLOCK_BYTES = 140
"""Bytes of a kernel within a block of causal attention, or of an element of a block's summary. 16 to 130 were seen with
8 frequencies, where they weigh most."""

KERNEL_BYTES = 48
"""Bytes of an element of a layer's largest weight matrix, which a product copies."""

BASE_BYTES = 2**24
"""Bytes that every pass takes, whatever the shapes."""


STORED_BYTES = 16
"""Bytes of an element of an array that a party keeps from program to program: two shares under ABY3, one under SEMI2K.
All parties together kept 1,831 MB of 16 texts on MiniLM, where `kept_bytes` says 1,825 (ABY3)."""


def kept_bytes(config: TransformerConfig, tokens: int) -> int:
    """Bytes that a forward pass keeps of a sequence for the backward pass, of all layers.

    16 layers (tokens (2 width + intermediate) + what attention keeps): rows of two norms, the activation's inputs or
    slopes, and see `Attention.kept_elements`.

    Args:
        config: of the transformer.
        tokens: of prompt and text together.
    """
    elements = tokens * (2 * config.width + config.intermediate)
    return STORED_BYTES * config.layers * (elements + attention_class(config).kept_elements(config, tokens))


def pass_bytes(config: TransformerConfig, sequences: int, tokens: int) -> int:
    """Bytes that a pass takes of each compute party at its peak, besides the weights and inputs that the party keeps.

    base + 48 largest kernel + sequences tokens (40 kept + max(feed-forward, attention)), where
        feed-forward = 120 width + i intermediate,    i by activation, for a series 440 terms
        attention = 440 pairs,    or for softmax    120 width + 140 heads tokens
            of a decoder by features at least    120 width + 140 heads (block + summary / block)
        pairs = 2 heads features, and kept are these and a series' terms intermediate
        summary = 2 features (head_dim + 1), one a block: see `causal_blocks`.

    Args:
        config: of the transformer.
        sequences: candidates times texts.
        tokens: of prompt and text together.
    """
    kernel = config.width * max(3 * config.width, config.intermediate)
    return BASE_BYTES + KERNEL_BYTES * kernel + sequences * sequence_bytes(config, tokens)


def sequence_bytes(config: TransformerConfig, tokens: int) -> int:
    """The part of `pass_bytes` that each sequence adds."""
    attention_kind, activation_kind = attention_class(config), activation_class(config)
    width = WIDTH_BYTES * config.width
    harmonics = activation_kind.pairs(config)
    inner = activation_kind.element_bytes + PAIR_BYTES * harmonics
    pairs = attention_kind.pairs(config)
    attention = PAIR_BYTES * pairs if pairs else width + SCORE_BYTES * attention_kind.scores(config, tokens)
    kept = KEPT_PAIR_BYTES * (pairs + harmonics * config.intermediate)
    total = tokens * (kept + max(width + inner * config.intermediate, attention))
    if blocks := attention_kind.block_elements(config, tokens):
        total = max(total, tokens * (kept + width) + BLOCK_BYTES * blocks)
    return total


def sequences_within(limit_bytes: int, config: TransformerConfig, tokens: int, *, keeping: bool = False) -> int:
    """How many sequences a pass may have to stay within a limit; one at least, which has to fit in any case.

    Args:
        limit_bytes: of memory.
        config: of the transformer.
        tokens: of prompt and text together.
        keeping: what a backward pass reads is kept of all layers.
    """
    of_sequence = sequence_bytes(config, tokens) + keeping * kept_bytes(config, tokens)
    return max(1, (limit_bytes - pass_bytes(config, 0, tokens)) // of_sequence)
