"""The activation that is a series for GELU within a range, computed with one opening."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import flax.linen as nn

from secp_spu.model.activation.activation import Activation
from secp_spu.model.layers import keep_for_backward, keeps_for_backward, spent_correlation
from secp_spu.model.transformer_config import ActivationKind, TransformerConfig
from secp_spu.protocol import Number, declare_series, series_gelu, series_gelu_and_slope
from secp_spu.protocol.waves import RESULT_BITS


class Series(Activation):
    """GELU within a range, by one opening: 8 bytes an element and 1 message in all.

    Declares its correlation, "series" in the collection "correlations", and spends it.
    """

    about: ClassVar[str] = "GELU within `activation_range`, much cheaper still"
    uses_series: ClassVar[bool] = True
    gelu_head: ClassVar[ActivationKind | None] = "gelu_tanh"
    has_backward: ClassVar[bool] = True

    @nn.compact
    def __call__(self, u: Number) -> Number:
        """Apply; of `Fixed` the result has 35 fraction bits."""
        series = self.config.series
        if series is None:
            raise ValueError("config.series is None: activation series needs one, made by fit_gelu")
        correlation = spent_correlation(self, "series", partial(declare_series, u.shape, series))
        if not keeps_for_backward(self):
            return series_gelu(u, series, correlation)
        value, slope = series_gelu_and_slope(u, series, correlation)
        keep_for_backward(self, slope=slope)
        return value

    @staticmethod
    def pairs(config: TransformerConfig) -> int:
        """One for each term."""
        return config.series.terms if config.series else 0

    @staticmethod
    def result_bits(bits: int) -> int:
        """Those of the harmonics' sum."""
        del bits
        return RESULT_BITS
