"""Refuses programs whose results give a mask away.

A result may be opened to an owner later. As delta = v - t is known to all, cos t and sin t alone would give v away.
So no result may be made of a mask or factor alone, moved, sliced, scaled or added up: each must have gone through a
product with something that follows from that correlation's own opening, as cos(v) = cos(delta) cos(t) - ... has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secp_spu.auditing.operations import PRODUCTS, REVEAL
from secp_spu.auditing.parser import Operation, Value
from secp_spu.auditing.values import CorrelationInput, KnownValues, sources

LARGEST_QUOTE = 200
"""Characters of a line that a message quotes."""

_Correlations = frozenset[CorrelationInput]


def return_faults(known: KnownValues, opened: Mapping[Operation, CorrelationInput]) -> list[str]:
    """Results that are made of a mask or factor alone: of products, those with nothing of that mask's own opening."""
    bare: dict[Value, _Correlations] = {value: frozenset([c]) for value, c in {**known.masks, **known.factors}.items()}
    after: dict[Value, _Correlations] = {}
    for operation in known.body.operations:
        used = sources(operation)
        parts, follows = _union(bare, used), _union(after, used)
        if operation.name == REVEAL:
            parts, follows = frozenset(), follows | {opened[operation]}
        elif operation.name in PRODUCTS:
            left, right = operation.operands
            parts = (_union(bare, [left]) - _union(after, [right])) | (_union(bare, [right]) - _union(after, [left]))
        bare.update(dict.fromkeys(operation.results, parts))
        after.update(dict.fromkeys(operation.results, follows))
    return [
        f"line {known.body.line}: result {number} is made of a mask or factor of {_names(bare[value])} "
        f"and of nothing that its opening gave: {known.body.text[:LARGEST_QUOTE]}"
        for number, value in enumerate(known.body.returned)
        if bare.get(value)
    ]


def _union(found: Mapping[Value, _Correlations], values: Sequence[Value]) -> _Correlations:
    return frozenset().union(*(found.get(value, frozenset()) for value in values))


def _names(correlations: _Correlations) -> str:
    return ", ".join(sorted(correlation.name for correlation in correlations))
