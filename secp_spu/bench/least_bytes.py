"""Counts the fewest bytes that a party sends for a part of a layer, however SPU's products are arranged.

The count has one ring element for each masked value that is opened, and for each secret product: its result, which is
reshared (ABY3), or its operands, which are opened (SEMI2K, two parties; weights are opened once a run). A sum of
products is one product. Truncations, inverse roots and reciprocals are not counted: they make the difference to what is
measured.
"""

from __future__ import annotations

from secp_spu.model import TransformerConfig
from secp_spu.protocol.sharing import RING_BYTES


def least_bytes(name: str, config: TransformerConfig, batch: int, tokens: int, protocol: str) -> float | None:
    """For a part of `layer_parts` by its name; None for those that nothing is said of.

    Args:
        name: of the part.
        config: of the transformer.
        batch, tokens: how many sequences, and how long.
        protocol: "aby3", or "semi2k" with two parties.
    """
    rows, width, inner = batch * tokens, config.width, config.intermediate
    opens = protocol == "semi2k"
    elements = {
        # inputs of the four dense layers, and the two gains of the residuals; or their outputs
        "linear": rows * (3 * width + inner) if opens else rows * (7 * width + inner),
        # centred rows and a scale each; or a square's sum and the scaled row
        "layer norm": 2 * rows * (width + 1),
        "rfa": _scaling(config, rows) + _features(config, rows, batch, opens=opens),
        "fourier": _features(config, rows, batch, opens=opens),
        "series": rows * inner,
        "quadratic": rows * inner,
    }.get(name)
    return None if elements is None else float(RING_BYTES * elements)


def _scaling(config: TransformerConfig, rows: int) -> int:
    """Queries and keys for their squared norms, and for their scale: operands, or results."""
    return 2 * rows * (config.width + config.heads)


def _features(config: TransformerConfig, rows: int, batch: int, *, opens: bool) -> int:
    heads, features, values = config.heads, 2 * config.features, config.head_dim + 1
    angles = 2 * rows * heads * config.features
    if opens:
        products = rows * heads * (2 * features + values) + batch * heads * features * values
        return angles + products + rows * (config.width + heads)
    products = batch * heads * features * values + rows * heads * values
    return angles + products + rows * config.width
