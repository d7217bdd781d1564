"""What is known of the values of a parsed program: where they come from, how often they are used, which are masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secp_spu.auditing.parser import Operation, Region, Value, walk


@dataclass(frozen=True)
class CorrelationInput:
    """Which arguments of a program are a correlation, by number.

    Attributes:
        name: of the correlation, for messages.
        mask: the number of t.
        factors: the numbers of cos kt and sin kt.
    """

    name: str
    mask: int
    factors: tuple[int, ...]


@dataclass
class KnownValues:
    """A parsed program and its values.

    Attributes:
        body: its statements.
        makers: what defines a value.
        uses: how often a value is an operand or is returned, in all regions.
        masks: correlation of a mask that is a secret ring integer.
        factors: correlation of a factor.
        names: of arguments, for messages.
    """

    body: Region
    names: Mapping[Value, str]
    masks: Mapping[Value, CorrelationInput]
    factors: Mapping[Value, CorrelationInput]
    makers: dict[Value, Operation] = field(default_factory=dict)
    uses: Counter[Value] = field(default_factory=Counter)


def survey(body: Region, input_names: Sequence[str], correlations: Sequence[CorrelationInput]) -> KnownValues:
    """Go through a program once."""
    arguments = body.arguments
    masks = {arguments[c.mask]: c for c in correlations if is_ring_integer(arguments[c.mask])}
    factors = {arguments[number]: c for c in correlations for number in c.factors}
    known = KnownValues(body, dict(zip(arguments, input_names, strict=True)), masks, factors)
    known.uses.update(body.returned)
    for operation, _ in walk(body):
        known.makers.update(dict.fromkeys(operation.results, operation))
        known.uses.update(operation.operands)
        for region in operation.regions:
            known.uses.update(region.returned)
    return known


def is_ring_integer(value: Value) -> bool:
    """Whether a value may be a mask: a secret of the ring's integers."""
    return value.kind.secret and value.kind.element == "i32"


def sources(operation: Operation) -> list[Value]:
    """Everything that an operation computes from: its operands, and what its regions use of the values around them."""
    found = list(operation.operands)
    for region in operation.regions:
        own = set(region.arguments).union(*(inner.results for inner in region.operations))
        used = [value for inner in region.operations for value in sources(inner)] + list(region.returned)
        found += [value for value in used if value not in own]
    return found
