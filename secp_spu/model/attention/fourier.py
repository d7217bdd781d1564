"""Attention by Fourier features with learned frequencies: the cheapest kind under MPC."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.attention.attention import required
from secp_spu.model.attention.causal_means import summarise_causal, transpose
from secp_spu.model.attention.random_features import (
    INITIAL_LENGTH,
    PROJECTION_BITS,
    FeatureAttention,
    append_column,
    append_ones,
    orthogonal_frequencies,
    read_summary,
    summary_of,
)
from secp_spu.model.layers import keep_for_backward, spent_correlation
from secp_spu.model.precision import (
    DIVISOR_BITS,
    FACTOR_BITS,
    HEAD_COTANGENT_BITS,
    MEAN_VALUE_BITS,
    SUMMARY_BITS,
    TOKEN_SHARE_BITS,
    WEIGHT_BITS,
)
from secp_spu.model.setting import Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import (
    Fixed,
    Number,
    NumberT,
    batched_product,
    constant,
    cos_sin_of_turns,
    declare_correlation,
    declare_reciprocal,
    mean_of,
    multiply,
    rearranged,
    rounded,
    series_reciprocal,
    to_float,
    widened,
)
from secp_spu.trees import Floats, Tree

EXTRA_BITS = 6
"""Fraction bits that angles have more than other projections. Whole turns do not count, so there is room for them."""

ANGLE_SCALE = 2.0**EXTRA_BITS
"""Factor of folded queries and keys, which gives angles EXTRA_BITS more fraction bits."""

TURN_BITS = PROJECTION_BITS + EXTRA_BITS
"""Fraction bits of the angles."""

ANGLE_COTANGENT_BITS = 34
"""Fraction bits of the cotangents of angles and values. Queries', with 64 frequencies, have 50 before: one cheap
truncation."""

SUMMARY_COTANGENT_BITS = 10
"""Fraction bits of the cotangents of the sums over keys, with the logarithm of the tokens: with features of 24 bits
those of values then have ANGLE_COTANGENT_BITS."""


def token_shares(padding_mask: Array, features: int) -> Array:
    """What a token counts in the mean over keys: zero for padding, and the mean of all others is one.

    That mean is taken by `protocol.mean_of`, which divides by powers of two; hence at least 1.

    Args:
        padding_mask: 1 for tokens, 0 for padding [batch, tokens].
        features: frequencies a head.
    Returns: [batch, tokens].
    """
    tokens = padding_mask.shape[-1]
    shares: Array = padding_mask * (_surplus(tokens, features) / tokens / padding_mask.mean(-1, keepdims=True))
    return shares


def _surplus(tokens: int, features: int) -> float:
    """What the token shares of a text add up to: what `mean_of` makes too small, but for the tokens themselves."""
    return float(2 ** math.ceil(math.log2(tokens)) * 2 ** math.ceil(math.log2(features)) / features)


class FourierAttention(FeatureAttention):
    """Linear attention with the features cos and sin of learned projections of queries and keys.

        phi(x) = [cos(2 pi x F), sin(2 pi x F)] / sqrt(r),  S = mean over keys of phi(k)^T [v, 1],
        out = phi(q) S[:, :-1] / (phi(q) S[:, -1:])

    F, one matrix a head, is a secret weight: folded it is part of the dense layer before (folding.py), so that neither
    frequencies nor norms cost anything under MPC. Drawn at random and with queries and keys of length tau this is the
    Gaussian kernel exp(-|q - k|**2 / 2) of random feature attention; here lengths may differ between tokens, and
    adaptation learns kernel and lengths.

    The mean kernel phi(q) S[:, -1:] is at most 1. Its reciprocal is `protocol.series_reciprocal`, in plaintext too, so
    that adaptation sees what is computed under MPC; it must keep the mean kernel above `reciprocal.FLOOR`, for which it
    finds it in the collection "intermediates" under "mean_kernel".

    A decoder's first queries see one to three keys, so that their mean kernel may be anything from -1 to 1, whatever
    the text. Below the floor the values do not add up to a mean any more, but stay bounded, and are the same under MPC
    and in plaintext: of a single key the value is multiplied by 1 down to a kernel of 1/32, and below by x times the
    reciprocal's function, 0 at x = 0 and -157 at the worst, x = -0.19, near which errors of x grow as well.

    Folded, queries and keys come projected, as ANGLE_SCALE times the turns of their angles.
    """

    has_backward: ClassVar[bool] = True
    watches_kernel: ClassVar[bool] = True
    weight_bits: ClassVar[int | None] = TOKEN_SHARE_BITS

    @nn.compact
    def __call__(self, query: Number, key: Number, value: Number, weights: Number | None) -> Number:
        """Attend. Spends the correlations "features" and "divisor", if given.

        Args:
            query, key: [batch, heads, tokens, head_dim]; or folded [batch, heads, tokens, features].
            value: [batch, heads, tokens, head_dim]; folded, zero for padding.
            weights: `token_shares` [batch, tokens]; under SPU of TOKEN_SHARE_BITS. A decoder needs none.
        Returns: [batch, heads, tokens, head_dim].
        Raises: ValueError for secrets that are not folded.
        """
        if isinstance(value, Fixed) and not self.setting.folded:
            raise ValueError("attention fourier has secret frequencies: fold them with fold_layer")
        both = self._turns(rearranged(lambda *a: jnp.stack(a), query, key))
        declare = partial(declare_correlation, both.shape, factor_bits=FACTOR_BITS, turn_bits=TURN_BITS)
        phi = rearranged(
            lambda *a: jnp.concatenate(a, -1), *cos_sin_of_turns(both, spent_correlation(self, "features", declare))
        )

        if self.config.causal:
            attended = summarise_causal(phi[0], phi[1], append_ones(value), self.setting)
            share: Number | float = constant(1.0, 0, attended)
        else:
            column = required(weights)[:, None, :, None]
            value = rounded(value if self.setting.folded else value * column, MEAN_VALUE_BITS)
            columns = rearranged(append_column, value, rounded(column, MEAN_VALUE_BITS))
            summary = summary_of(phi[1], columns, self.setting)
            attended = read_summary(phi[0], summary, self.setting)
            keep_for_backward(self, features=phi, columns=columns, summary=summary)
            # Folded values are not weighted; the first token, which is never padding, has the share of all that count.
            share = column[:, :, :1] if self.setting.folded else 1.0
        kernel = attended[..., -1:]
        self.sow("intermediates", "mean_kernel", kernel)
        correlation = spent_correlation(self, "divisor", partial(declare_reciprocal, kernel.shape))
        divisor = rounded(series_reciprocal(kernel, share, correlation), DIVISOR_BITS)
        out = multiply(attended[..., :-1], widened(divisor, value.shape[-1]))
        keep_for_backward(self, divisor=divisor, out=out)
        return out

    def _turns(self, both: Number) -> Number:
        """Angles of queries and keys [2, batch, heads, tokens, features], in turns."""
        if self.setting.folded:
            return Fixed(both.ring, TURN_BITS) if isinstance(both, Fixed) else both / ANGLE_SCALE
        heads, head_dim = both.shape[2], both.shape[-1]
        return both @ self.param("frequencies", self._initial_frequencies, (heads, head_dim, self.config.features))

    def _initial_frequencies(self, _key: Array, shape: tuple[int, int, int]) -> Array:
        """Of the Gaussian kernel, others for every head."""
        heads, head_dim, features = shape
        seeds = ((self.config.feature_seed, self.layer, head) for head in range(heads))
        return jnp.stack([orthogonal_frequencies(head_dim, features, seed) for seed in seeds])

    @classmethod
    def projected_columns(cls, config: TransformerConfig, setting: Setting) -> tuple[int, int, int]:
        """Columns of a layer's queries, keys and values; folded, angles stand for the first two."""
        angles = config.heads * config.features if setting.folded else config.width
        return angles, angles, config.width

    @classmethod
    def token_weights(cls, padding_mask: Number, config: TransformerConfig) -> Number:
        """The tokens' shares in the mean over keys."""
        return token_shares(to_float(padding_mask), config.features)

    @classmethod
    def fold(cls, kernel: Floats, bias: Floats, params: Tree, config: TransformerConfig) -> tuple[Floats, Floats, Tree]:
        """Put the frequencies into the projections, which then give angles."""
        del config
        frequencies = params["frequencies"]
        return _into_angles(kernel, frequencies), _into_angles(bias, frequencies), {}

    @classmethod
    def pull_back(
        cls, kept: Tree, cotangent: Number, tokens: Number, setting: Setting, wanted: slice
    ) -> tuple[Number, Number, Number]:
        """The cotangents of the angles of queries and keys, and of values.

        With a = phi(q) S, in columns [a, kernel], and out = a d for the divisor d = share / kernel:

            da = g d,  dkernel = -(sum g out) d / share
            dphi(q) = [da, dkernel] S^T,  dS = phi(q)^T [da, dkernel]
            dphi(k) = [v, column] dS^T,  dv = phi(k) dS without its last column
            dangle = cos dsin - sin dcos,  with 2 pi in `backward_kernel`

        S is divided by the tokens and a by the frequencies, rounded up to powers of two (`mean_of`).
        """
        phi, columns, summary, divisor, out = (kept[k] for k in ("features", "columns", "summary", "divisor", "out"))
        length, frequencies = phi.shape[-2], phi.shape[-1] // 2
        product = partial(batched_product, opens_operands=setting.opens_operands)
        transposed = partial(rearranged, transpose)

        share = tokens * constant(1 / _surplus(length, frequencies), FACTOR_BITS, tokens)  # 1 / share
        along = rounded((cotangent * out).sum(-1, keepdims=True), HEAD_COTANGENT_BITS)
        scaled = rounded(divisor * share[:, None, None, None], HEAD_COTANGENT_BITS)
        of_kernel = rounded(along * scaled, SUMMARY_BITS)
        of_attended = rounded(cotangent * widened(divisor, cotangent.shape[-1]), SUMMARY_BITS)
        g = rearranged(lambda a, b: jnp.concatenate([a, -b], -1), of_attended, of_kernel)

        of_queries = mean_of(product(g[:, :, wanted], transposed(summary)), frequencies)
        of_summary = mean_of(product(transposed(phi[0]), g), frequencies)
        of_summary = rounded(of_summary, max(0, SUMMARY_COTANGENT_BITS - math.ceil(math.log2(length))))
        phi_query, phi_key = phi[0][:, :, wanted], phi[1][:, :, wanted]
        of_keys = mean_of(product(columns[:, :, wanted], transposed(of_summary)), length)
        of_columns = mean_of(product(phi_key, of_summary), length)
        return (
            _of_angles(phi_query, of_queries),
            _of_angles(phi_key, of_keys),
            rounded(of_columns[..., :-1], ANGLE_COTANGENT_BITS),
        )

    @classmethod
    def backward_kernel(cls, kernel: NumberT, config: TransformerConfig) -> NumberT:
        """With the derivative of turns by the columns that give angles: 2 pi / ANGLE_SCALE."""
        angles = 2 * config.heads * config.features
        turns = rounded(kernel[..., :angles] * constant(2 * math.pi / ANGLE_SCALE, FACTOR_BITS, kernel), WEIGHT_BITS)
        return rearranged(lambda *parts: jnp.concatenate(parts, -1), turns, kernel[..., angles:])

    @classmethod
    def kept_elements(cls, config: TransformerConfig, tokens: int) -> int:
        """Features of queries and keys, values and results with a column a head, divisors, and the summary."""
        features = 2 * config.heads * config.features
        return tokens * (2 * features + 2 * (config.width + config.heads)) + features * (config.head_dim + 1)

    @classmethod
    def tensors(cls, config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """The frequencies of every head."""
        return {"frequencies": (config.heads, config.head_dim, config.features)}

    @classmethod
    def initial_projections(cls, dense: Tree, squares: Floats, config: TransformerConfig) -> Tree:
        """Projections whose queries and keys have the expected length INITIAL_LENGTH, head by head."""
        scale = np.repeat(INITIAL_LENGTH / np.sqrt(squares[:2]), config.head_dim, axis=-1)
        factors = np.concatenate([*scale, np.ones(config.width)]).astype(np.float32)
        return {name: np.asarray(array) * factors for name, array in dense.items()}


def _of_angles(phi: Number, of_phi: Number) -> Number:
    """The cotangent of angles by that of their cosines and sines, which stand side by side."""
    frequencies = phi.shape[-1] // 2
    cos, sin = phi[..., :frequencies], phi[..., frequencies:]
    return rounded(cos * of_phi[..., frequencies:] - sin * of_phi[..., :frequencies], ANGLE_COTANGENT_BITS)


def _into_angles(projection: Floats, frequencies: Floats) -> Floats:
    """Columns of queries and keys as those of their angles, ANGLE_SCALE times the turns.

    Args:
        projection: of queries, keys and values [..., 3 width].
        frequencies: [heads, head_dim, features].
    Returns: [..., 2 heads * features + width].
    """
    queries, keys, values = np.split(projection, 3, axis=-1)
    heads, head_dim, features = frequencies.shape
    angles = (
        np.einsum("...hd,hdf->...hf", part.reshape(*part.shape[:-1], heads, head_dim), frequencies * ANGLE_SCALE)
        for part in (queries, keys)
    )
    return np.concatenate([*(a.reshape(*a.shape[:-2], heads * features) for a in angles), values], axis=-1)
