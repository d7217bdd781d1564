"""Defines what an activation says about itself: how it computes, folds and is stored, and its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
from jax import Array

from secp_spu.model.setting import PLAIN, Setting
from secp_spu.model.transformer_config import ActivationKind, TransformerConfig
from secp_spu.protocol import FRACTION_BITS, Number
from secp_spu.trees import Floats


class Activation(nn.Module):
    """The function between the two dense layers of a feed-forward layer.

    A new one is a subclass in a file of its own and one line in `ACTIVATIONS`. The subclass has a `__call__` that takes
    `Fixed` or arrays [..., intermediate] and returns the same shape. What the class attributes and static methods say
    is all that the rest of the project asks of an activation.

    Attributes:
        config: of the transformer.
        setting: where the module runs; with folded parameters `parameters` are in the dense layers around it.

    Class attributes:
        about: what it is, in a few words, for the description of the configuration's key.
        element_bytes: memory that an element takes of a compute party while it is computed, without `pairs`.
        function: the function itself where it is one of SPU's own, which heads may have too.
        hub_names: values of Hugging Face's `hidden_act`, the one that is written first; without any the activation
            stands under the key "secp_spu" of config.json.
        parameters: names of learned parameters, each [intermediate].
        uses_series: the config has a `GeluSeries`.
        gelu_head: the head's activation of a model where this one replaces GELU; None where it cannot replace GELU.
        has_backward: it keeps what `pull_back` reads: its derivative as "slope", unless `pull_back` is another.
    """

    config: TransformerConfig
    setting: Setting = PLAIN

    about: ClassVar[str] = "an activation without a description"
    element_bytes: ClassVar[int] = 0
    function: ClassVar[Callable[[Array], Array] | None] = None
    hub_names: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[str, ...]] = ()
    uses_series: ClassVar[bool] = False
    gelu_head: ClassVar[ActivationKind | None] = None
    has_backward: ClassVar[bool] = False

    def __call__(self, u: Number) -> Number:
        """Apply."""
        raise NotImplementedError

    @staticmethod
    def initial(inputs: Floats) -> dict[str, Floats]:
        """Values of `parameters` with which adaptation starts, each [intermediate].

        Args:
            inputs: the activation's, for a sample of tokens [tokens, intermediate].
        """
        del inputs
        return {}

    @staticmethod
    def fold(
        params: Mapping[str, Floats],
        kernel: Floats,
        bias: Floats,
        output_kernel: Floats,
        output_bias: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        """Put the parameters into the dense layers around the activation.

        Args:
            params: arrays by the names in `parameters`.
            kernel, bias: of the layer before [width, intermediate], [intermediate].
            output_kernel, output_bias: of the layer after [intermediate, width], [width].
        Returns: kernel, bias and output_bias; output_kernel stays.
        """
        del params, output_kernel
        return kernel, bias, output_bias

    @staticmethod
    def pull_back(kept: Mapping[str, Number], cotangent: Number) -> Number:
        """The cotangent of the input, with all bits of the product: the slope that was kept times the result's.

        Args:
            kept: by the forward pass, with folded parameters.
            cotangent: of the result [..., intermediate].
        """
        return kept["slope"] * cotangent

    @staticmethod
    def pairs(config: TransformerConfig) -> int:
        """How many (cos, sin) pairs of a correlation an element takes under MPC."""
        del config
        return 0

    @staticmethod
    def result_bits(bits: int) -> int:
        """Fraction bits of the result under MPC, for inputs of `bits`."""
        del bits
        return FRACTION_BITS
