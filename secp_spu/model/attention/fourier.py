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
from secp_spu.model.attention.causal_means import summarise_causal
from secp_spu.model.attention.random_features import (
    INITIAL_LENGTH,
    PROJECTION_BITS,
    FeatureAttention,
    append_column,
    append_ones,
    orthogonal_frequencies,
    summarise,
)
from secp_spu.model.layers import spent_correlation
from secp_spu.model.precision import DIVISOR_BITS, FACTOR_BITS, TOKEN_SHARE_BITS, VALUE_BITS
from secp_spu.model.setting import Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import (
    Fixed,
    Number,
    constant,
    cos_sin_of_turns,
    declare_correlation,
    declare_reciprocal,
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


def token_shares(padding_mask: Array, features: int) -> Array:
    """What a token counts in the mean over keys: zero for padding, and the mean of all others is one.

    That mean is taken by `protocol.mean_of`, which divides by powers of two; hence at least 1.

    Args:
        padding_mask: 1 for tokens, 0 for padding [batch, tokens].
        features: frequencies a head.
    Returns: [batch, tokens].
    """
    tokens = padding_mask.shape[-1]
    surplus = 2 ** math.ceil(math.log2(tokens)) * 2 ** math.ceil(math.log2(features)) / features
    shares: Array = padding_mask * (surplus / tokens / padding_mask.mean(-1, keepdims=True))
    return shares


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
            value = rounded(value if self.setting.folded else value * column, VALUE_BITS)
            columns = rearranged(append_column, value, rounded(column, VALUE_BITS))
            attended = summarise(phi[0], phi[1], columns, self.setting)
            # Folded values are not weighted; the first token, which is never padding, has the share of all that count.
            share = column[:, :, :1] if self.setting.folded else 1.0
        kernel = attended[..., -1:]
        self.sow("intermediates", "mean_kernel", kernel)
        correlation = spent_correlation(self, "divisor", partial(declare_reciprocal, kernel.shape))
        divisor = series_reciprocal(kernel, share, correlation)
        return multiply(attended[..., :-1], widened(rounded(divisor, DIVISOR_BITS), value.shape[-1]))

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
    def tensors(cls, config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """The frequencies of every head."""
        return {"frequencies": (config.heads, config.head_dim, config.features)}

    @classmethod
    def initial_projections(cls, dense: Tree, squares: Floats, config: TransformerConfig) -> Tree:
        """Projections whose queries and keys have the expected length INITIAL_LENGTH, head by head."""
        scale = np.repeat(INITIAL_LENGTH / np.sqrt(squares[:2]), config.head_dim, axis=-1)
        factors = np.concatenate([*scale, np.ones(config.width)]).astype(np.float32)
        return {name: np.asarray(array) * factors for name, array in dense.items()}


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
