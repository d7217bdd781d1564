"""Describes a model: the sizes of an encoder or a decoder, and the attention and activation of its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from secp_spu.protocol import GeluSeries

AttentionKind = str
"""Name of a kind of attention in `attention.ATTENTIONS`."""

ActivationKind = str
"""Name of an activation in `activation.ACTIVATIONS`."""


@dataclass(frozen=True)
class TransformerConfig:
    """An encoder of BERT's or RoBERTa's kind, or a decoder of GPT-2's; hashable, as a Flax module's attribute must be.

    Attributes:
        width: of the hidden states.
        intermediate: width of the feed-forward layer.
        position_offset: position id of the first token (RoBERTa counts from padding_id + 1, BERT from 0).
        attention: a registered kind: "softmax"; "rfa", random feature attention; or "fourier", the same with learned
            frequencies and without normalisation, the cheapest.
        activation: of the feed-forward layers, a registered one: "gelu" (by erf), "gelu_tanh" (its tanh form, off by
            5e-4 at most and five times cheaper under MPC), "relu", "series" (GELU within a range, by one opening) or
            "quadratic" (a learned a x^2 + b x + c for each neuron).
        head_activation: of the masked-LM head, one of SPU's own functions.
        series: the coefficients of activation "series"; None for other activations.
        features: frequencies r of a head with "rfa" and "fourier"; cos and sin of each make 2 r features.
        feature_seed: of the public frequencies of "rfa", and of the initial ones of "fourier".
        causal: this is a decoder: a token attends to itself and to those before it, and layer norms stand in front of
            attention, feed-forward layer and head instead of behind them.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int
    position_offset: int
    type_vocab_size: int
    layer_norm_epsilon: float
    activation: ActivationKind = "gelu"
    head_activation: ActivationKind = "gelu"
    series: GeluSeries | None = None
    attention: AttentionKind = "softmax"
    features: int = 64
    feature_seed: int = 0
    causal: bool = False

    def __post_init__(self) -> None:
        if (self.activation == "series") != (self.series is not None):
            raise ValueError(
                f"activation is {self.activation}, series {self.series}: one goes with the other, by fit_gelu"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def projected(self) -> int:
        """Width of queries, keys and values together."""
        return 3 * self.width
