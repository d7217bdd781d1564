"""Queries, keys and values of all heads in, the heads' outputs out: by softmax or by random features."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.config import EncoderConfig
from secp_spu.protocol import cos_sin, declare_correlation

PADDING_SCORE = -300.0
"""Added to the scores of padded keys, so that exp is zero for scores up to 200 apart: SPU's exp of a negative number,
the power (1 + x/256)**256 in fixed point, is zero from -14 to -500 and nonsense below."""

INITIAL_LENGTH = 1.3
"""Of queries and keys before adaptation: the best start found for a pre-trained encoder."""

NORM_EPSILON = 1e-4
"""Added to |q|^2 and |k|^2 before the inverse square root; real heads have norms of 1 to 5."""


class SoftmaxAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v for every head, padded keys left out."""

    config: EncoderConfig
    layer: int = 0

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array, padding_mask: Array) -> Array:
        """Attend.

        Args:
            query, key, value: [batch, heads, tokens, head_dim].
            padding_mask: 1 for tokens, 0 for padding [batch, tokens].
        Returns: [batch, heads, tokens, head_dim].
        """
        scores = query @ key.swapaxes(-1, -2) * (1 / math.sqrt(query.shape[-1]))
        scores = scores + ((1 - padding_mask) * PADDING_SCORE)[:, None, None, :]
        return jax.nn.softmax(scores, axis=-1) @ value


class RandomFeatureAttention(nn.Module):
    """Attention with a Gaussian kernel of normalised queries and keys, estimated by random Fourier features.

        phi(x) = [cos(x W), sin(x W)],  S = mean over keys of phi(k)^T [v, 1],
        out = phi(q) S[:, :-1] / phi(q) S[:, -1:]

    Queries and keys are scaled to the length tau of their head (learned), so that the kernel is exp(tau^2 (cos - 1))
    and no norm has to be corrected. W is public: orthogonal Gaussian frequencies drawn from the checkpoint's seed and
    the layer, shared by the heads of a layer. Under MPC all cosines and sines of queries and keys come from one
    opening. Linear in the number of tokens.

    The denominator is an estimate of a positive number; it is positive itself as long as tau stays small against the
    number of features (never below zero seen for tau <= 1 and 64 features; one query in twelve for tau = 1.7 and keys
    that all point the same way). There is no comparison that would catch it: adaptation must keep tau small.

    Source: random feature attention, Peng et al. 2021 (arXiv 2103.02143), equations 4-6; under MPC arXiv 2506.15307.
    Here also: the column of ones (one product for numerator and denominator), the padding mask on [v, 1] instead of
    the features, and the mean instead of the sum, which keeps the reciprocal in the range of fixed point.
    """

    config: EncoderConfig
    layer: int = 0

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array, padding_mask: Array) -> Array:
        """Attend; arguments and result as in `SoftmaxAttention`. Spends the correlation "features", if given."""
        tokens, head_dim = query.shape[-2:]
        features = self.config.features
        length = self.param("length", nn.initializers.constant(INITIAL_LENGTH), (query.shape[1],))
        seed = (self.config.feature_seed, self.layer)
        frequencies = self.variable("public", "frequencies", orthogonal_frequencies, head_dim, features, seed).value
        correlation = self._correlation((2, *query.shape[:-1], features))

        both = jnp.stack([query, key])
        norm = jnp.sum(both * both, -1, keepdims=True) + NORM_EPSILON
        both = both * (jax.lax.rsqrt(norm) * length[:, None, None])
        phi_query, phi_key = jnp.concatenate(cos_sin(both, frequencies, correlation), axis=-1)

        weight = (padding_mask * 2.0 ** -math.ceil(math.log2(tokens)))[:, None, :, None]
        weighted = jnp.concatenate([value * weight, jnp.broadcast_to(weight, (*value.shape[:-1], 1))], axis=-1)
        summary = phi_key.swapaxes(-1, -2) @ weighted
        attended = phi_query @ summary
        return attended[..., :-1] * (1 / attended[..., -1:])

    def _correlation(self, shape: tuple[int, ...]):
        """This call's correlation, declared during `init`; None in plaintext."""
        if self.is_initializing():
            self.variable("correlations", "features", declare_correlation, shape, factor_bits=self.config.factor_bits)
            return None
        return self.get_variable("correlations", "features")


def orthogonal_frequencies(head_dim: int, features: int, seed: tuple[int, int]) -> Array:
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
