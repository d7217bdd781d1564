"""Attention by random Fourier features of queries and keys, which estimate a Gaussian kernel."""

import math
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.attention.attention import Attention, required
from secp_spu.model.attention.causal_means import causal_blocks, summarise_causal, transpose
from secp_spu.model.layers import spent_correlation
from secp_spu.model.precision import (
    DIVISOR_BITS,
    FACTOR_BITS,
    HIDDEN_BITS,
    SUMMARY_BITS,
    VALUE_BITS,
    VARIANCE_BITS,
    WEIGHT_BITS,
)
from secp_spu.model.setting import PLAIN, Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import (
    FRACTION_BITS,
    CosineCorrelation,
    Fixed,
    Number,
    NumberT,
    as_plain,
    batched_product,
    constant,
    cos_sin,
    declare_correlation,
    declare_reciprocal,
    from_storage,
    inverse_sqrt,
    mean_of,
    multiply,
    rearranged,
    rounded,
    series_reciprocal,
    to_fixed,
    to_float,
    widened,
)
from secp_spu.protocol.cosine import public_factor_bits
from secp_spu.trees import Floats, Tree

INITIAL_LENGTH = 1.3
"""Length of queries and keys before adaptation: the best start found for a pre-trained encoder."""

LONGEST = 32.0
"""Largest expected |q|^2 and |k|^2 of a head, for rows of variance one; see precision.py for what the ring holds."""

NORM_EPSILON = 1e-4
"""Added to |q|^2 and |k|^2 before the inverse square root; real heads have norms of 1 to 5."""


PROJECTION_BITS = HIDDEN_BITS + WEIGHT_BITS
"""Fraction bits of queries, keys and values after a layer's dense product."""

TURN_BITS = PROJECTION_BITS + (FRACTION_BITS - (VARIANCE_BITS - FRACTION_BITS) // 2) + FRACTION_BITS
"""Fraction bits of the angles: those of queries and keys, of the scale to their length, and of the frequencies, with no
truncation between the products."""


class FeatureAttention(Attention):
    """What both kinds of attention by features say about themselves."""

    has_features: ClassVar[bool] = True

    @classmethod
    def pairs(cls, config: TransformerConfig) -> int:
        """Features of queries and keys, in all heads."""
        return 2 * config.heads * config.features

    @classmethod
    def block_elements(cls, config: TransformerConfig, tokens: int) -> int:
        """Kernels of pairs within a decoder's blocks, and elements of the blocks' summaries, of one sequence."""
        if not config.causal:
            return 0
        features, columns = 2 * config.features, config.head_dim + 1
        blocks, size = causal_blocks(tokens, features, columns)
        return config.heads * blocks * (size * size + features * columns)

    @classmethod
    def result_bits(cls, config: TransformerConfig) -> int:
        """Those of an encoder's features, their summary, the mean over them and the divisor, after one truncation."""
        features = FACTOR_BITS + public_factor_bits(FACTOR_BITS)
        return features + SUMMARY_BITS + math.ceil(math.log2(config.features)) + DIVISOR_BITS - FRACTION_BITS


class RandomFeatureAttention(FeatureAttention):
    """Attention with a Gaussian kernel of normalised queries and keys, estimated by random Fourier features.

        phi(x) = [cos(x W), sin(x W)],  S = mean over keys of phi(k)^T [v, 1],
        out = phi(q) S[:, :-1] / phi(q) S[:, -1:]

    Queries and keys are scaled to the length tau of their head (learned), so that the kernel is exp(tau^2 (cos - 1))
    and no norm has to be corrected. W is public: orthogonal Gaussian frequencies drawn from the checkpoint's seed and
    the layer, shared by the heads of a layer. Under MPC all cosines and sines of queries and keys come from one
    opening. Linear in the number of tokens.

    An encoder's denominator is an estimate of a positive number; it is positive itself as long as tau stays small
    against the number of features (never below zero seen for tau <= 1 and 64 features; one query in twelve for tau =
    1.7 and keys that all point the same way). There is no comparison that would catch it, and SPU's own reciprocal of a
    number near zero is anything: adaptation must keep tau small.

    A decoder's first queries see one to three keys, so that their denominator may be anything from -1 to 1. There the
    reciprocal is `protocol.series_reciprocal`, as of "fourier", in plaintext too: bounded, and below its floor of 1/32
    the same under MPC and in plaintext, though no mean of the values.

    Source: random feature attention, Peng et al. 2021 (arXiv 2103.02143), equations 4-6; under MPC arXiv 2506.15307.
    Here also: the column of ones (one product for numerator and denominator), the padding mask on [v, 1] instead of
    the features, and the mean instead of the sum, which keeps the reciprocal in the range of fixed point.
    """

    @nn.compact
    def __call__(self, query: Number, key: Number, value: Number, weights: Number | None) -> Number:
        """Attend; arguments and result as in `SoftmaxAttention`.

        Spends the correlation "features" and, as a decoder's, "divisor", if given.

        With a correlation secrets may come as `Fixed`, queries and keys of PROJECTION_BITS fraction bits, or as SPU's
        own fixed point, which is what comes out then. With folded parameters padded tokens' values are zero already.
        """
        features, head_dim = self.config.features, query.shape[-1]
        length = self.param("length", nn.initializers.constant(INITIAL_LENGTH), (query.shape[1],))
        seed = (self.config.feature_seed, self.layer)
        frequencies = self.variable("public", "frequencies", orthogonal_frequencies, head_dim, features, seed).value
        shape = (2, *query.shape[:-1], features)
        declare = partial(declare_correlation, shape, factor_bits=FACTOR_BITS, turn_bits=TURN_BITS)
        correlation = spent_correlation(self, "features", declare)
        if correlation is None or isinstance(query, Fixed):
            return self._attend(query, key, value, weights, length, frequencies, correlation)
        query, key, value = (from_storage(as_plain(x), FRACTION_BITS, secure=True) for x in (query, key, value))
        query, key = (rounded(x, PROJECTION_BITS) for x in (query, key))
        weights = None if weights is None else from_storage(as_plain(weights), FRACTION_BITS, secure=True)
        return to_float(self._attend(query, key, value, weights, length, frequencies, correlation))

    def _attend(
        self,
        query: Number,
        key: Number,
        value: Number,
        padding_mask: Number | None,
        length: Array,
        frequencies: Array,
        correlation: CosineCorrelation | None,
    ) -> Number:
        both = rearranged(lambda *a: jnp.stack(a), query, key)
        norm = rounded((both * both).sum(-1, keepdims=True), VARIANCE_BITS)
        scale = multiply(inverse_sqrt(norm, NORM_EPSILON), to_fixed(length, both)[:, None, None])
        phi = rearranged(
            lambda *a: jnp.concatenate(a, -1), *cos_sin(both * widened(scale, both.shape[-1]), frequencies, correlation)
        )

        if self.config.causal:
            attended = summarise_causal(phi[0], phi[1], append_ones(value), self.setting)
        else:
            weight = required(padding_mask)[:, None, :, None]
            value = rounded(value if self.setting.folded else value * weight, VALUE_BITS)
            columns = rearranged(append_column, value, weight)
            attended = summarise(phi[0], phi[1], columns, self.setting)
        divisor = self._inverse(attended[..., -1:])
        return multiply(attended[..., :-1], widened(rounded(divisor, DIVISOR_BITS), value.shape[-1]))

    def _inverse(self, denominator: Number) -> Number:
        """1/denominator [..., 1]; a decoder's by a function that is bounded where the denominator is not positive."""
        if not self.config.causal:
            return to_fixed(1 / to_float(denominator), denominator)
        self.sow("intermediates", "mean_kernel", denominator)
        correlation = spent_correlation(self, "divisor", partial(declare_reciprocal, denominator.shape))
        return series_reciprocal(denominator, constant(1.0, 0, denominator), correlation)

    @classmethod
    def fold(cls, kernel: Floats, bias: Floats, params: Tree, config: TransformerConfig) -> tuple[Floats, Floats, Tree]:
        """Shorten long queries and keys to an expected square of LONGEST, which leaves room for outliers in the ring.

        Attention scales them to a length anyway.
        """
        squares = squared_lengths(kernel, bias, config)
        shortened = np.minimum(1, np.sqrt(LONGEST / np.maximum(squares, 1e-12)))
        queries, keys = np.repeat(shortened[:2], config.head_dim, axis=-1)
        scale = np.concatenate([queries, keys, np.ones(config.width, np.float32)]).astype(np.float32)
        return kernel * scale, bias * scale, params

    @classmethod
    def tensors(cls, config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """The length of every head's queries and keys."""
        return {"length": (config.heads,)}

    @classmethod
    def public(cls, config: TransformerConfig, layer: int) -> Tree:
        """The layer's frequencies."""
        frequencies = orthogonal_frequencies(config.head_dim, config.features, (config.feature_seed, layer))
        return {"frequencies": np.asarray(frequencies)}


def append_column(values: Array, column: Array) -> Array:
    """Values [..., tokens, head_dim] and, as one more column, a number for every token [batch, 1, tokens, 1]."""
    return jnp.concatenate([values, jnp.broadcast_to(column, (*values.shape[:-1], 1))], axis=-1)


def append_ones(values: NumberT) -> NumberT:
    """Values [..., tokens, head_dim] and a public one for every token, of VALUE_BITS under SPU."""
    values = rounded(values, VALUE_BITS)
    return rearranged(append_column, values, constant(1.0, VALUE_BITS, values))


def summarise(phi_query: NumberT, phi_key: NumberT, columns: NumberT, setting: Setting = PLAIN) -> NumberT:
    """phi(q) times the sum over keys of phi(k)^T columns, divided by tokens and frequencies: by the next powers of two.

    Args:
        phi_query, phi_key: features [batch, heads, tokens, 2 * frequencies].
        columns: [batch, heads, tokens, columns].
        setting: where it runs.
    Returns: [batch, heads, tokens, columns]. Linear in the number of tokens.
    """
    return read_summary(phi_query, summary_of(phi_key, columns, setting), setting)


def summary_of(phi_key: NumberT, columns: NumberT, setting: Setting) -> NumberT:
    """The sum over keys of phi(k)^T columns, divided by tokens [batch, heads, 2 * frequencies, columns]."""
    product = batched_product(rearranged(transpose, phi_key), columns, opens_operands=setting.opens_operands)
    return rounded(mean_of(product, phi_key.shape[-2]), SUMMARY_BITS)


def read_summary(phi_query: NumberT, summary: NumberT, setting: Setting) -> NumberT:
    """phi(q) times a summary, divided by frequencies."""
    return mean_of(batched_product(phi_query, summary, opens_operands=setting.opens_operands), phi_query.shape[-1] // 2)


def orthogonal_frequencies(head_dim: int, features: int, seed: tuple[int, ...]) -> Array:
    """Random frequencies of the unit Gaussian kernel, orthogonal within each block of head_dim.

    Returns: turns per unit of x [head_dim, features]; 2 pi times it is standard Gaussian in every column.
    Source: orthogonal random features, Yu et al. 2016.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(math.ceil(features / head_dim)):
        basis, _ = np.linalg.qr(rng.normal(size=(head_dim, head_dim)))
        blocks.append(basis * np.sqrt(rng.chisquare(head_dim, size=head_dim)))
    return jnp.asarray(np.concatenate(blocks, axis=1)[:, :features] / (2 * np.pi), jnp.float32)


def squared_lengths(kernel: Floats, bias: Floats, config: TransformerConfig) -> Floats:
    """Expected |q|^2, |k|^2 and |v|^2 of every head, for rows of mean zero and variance one [3, heads].

    Args:
        kernel, bias: of the projections [width, 3 width], [3 width].
        config: of the transformer.
    """
    squares: Floats = np.square(kernel).sum(0) + np.square(bias)
    lengths: Floats = squares.reshape(3, config.heads, config.head_dim).sum(-1)
    return lengths
