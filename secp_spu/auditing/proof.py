"""Proves that every opening of a compiled program is masked, or names the line that is not.

The claim. Let the masks be independent, uniform over Z_2**64, and independent of all other inputs except the factors
(cos kt, sin kt) of their own correlation. Let every operation of a program be one that is known (`operations`), let
none make something public of something secret but `spu.reveal`, and let every `spu.reveal` open v - t such that

1. t is an argument of the program that is a mask, and v - t is the only place where it is used;
2. v depends on no factor of a correlation unless that correlation's mask was opened on an earlier line;
3. v and t are secret ring integers of one shape, and the opening is in no region, so that it runs once.

Then all openings together are uniform and independent of every input: in the order of the program, t is independent
of v and of all earlier openings (by 1 and 2), so v - t is uniform given these.

What a program returns may be opened to an owner later: `results` sees to that.

What the runtime adds: an argument that is a mask was made by `CorrelationMaker`, and is given to one run of one
program, as one argument; and every run opens as often as was proven.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from math import prod

from secp_spu.auditing.audit_report import AuditReport, Opening
from secp_spu.auditing.operations import ALLOWED, IF, KEEP_OPENING, NATIVE, REVEAL, WHILE
from secp_spu.auditing.parser import Operation, Region, UnreadableProgram, Value, parse_program, walk
from secp_spu.auditing.results import LARGEST_QUOTE, return_faults
from secp_spu.auditing.values import CorrelationInput, KnownValues, is_ring_integer, sources, survey

_MOVES = {"pphlo.reshape", "pphlo.transpose", "pphlo.bitcast_convert", "pphlo.negate"}
"""Operations that hand on every element exactly once, in another place, under another type or with the other sign."""

_NUMBERS = {"i32", "f32"}
"""Element types that a bitcast may exchange without touching the ring element."""


class AuditError(ValueError):
    """A program has an opening that is not proven masked, or does what the audit does not know; names each line."""


class _Fault(Exception):
    """Why a line is refused."""


def audit_program(
    code: str, input_names: Sequence[str], *, correlations: Sequence[CorrelationInput] = (), program: str = "program"
) -> AuditReport:
    """Prove that every opening of a compiled program is masked, by a mask that is used once.

    Args:
        code: the program as SPU's compiler prints it (pphlo).
        input_names: of its arguments %arg0, %arg1, ..., for messages alone.
        correlations: which arguments are masks and factors.
        program: its name, for messages.
    Raises: AuditError naming everything that is not proven, with its line.
    """
    try:
        body = parse_program(code)
    except UnreadableProgram as error:
        line = code.splitlines()[error.line - 1].strip() if code else ""
        raise AuditError(f"{program}, line {error.line}: {error}: {line[:LARGEST_QUOTE]}") from error
    if len(body.arguments) != len(input_names):
        raise AuditError(f"{program} has {len(body.arguments)} arguments, but {len(input_names)} inputs")
    known = survey(body, input_names, correlations)
    openings: list[tuple[Operation, Value]] = []
    faults = _argument_faults(body, correlations)
    for operation, inside in walk(body):
        try:
            _require_known(operation, known)
            if operation.name in NATIVE and inside:
                raise _Fault("a public step is inside a region, where a program cannot be cut")
            if operation.name == REVEAL:
                openings.append((operation, _mask_of(operation, known, inside=inside)))
                _require_independent(operation, known, {known.masks[mask] for _, mask in openings[:-1]})
        except _Fault as fault:
            faults.append(f"line {operation.line}: {fault}: {operation.text[:LARGEST_QUOTE]}")
    # Once the openings are proven: what may be returned depends on them.
    faults = faults or return_faults(known, {operation: known.masks[mask] for operation, mask in openings})
    if faults:
        raise AuditError("\n".join(f"{program}, {fault}" for fault in faults))
    return AuditReport(
        program,
        hashlib.sha256(code.encode()).hexdigest(),
        tuple(_opening(operation, mask, known) for operation, mask in openings),
        tuple(sorted(body.arguments.index(op.operands[0]) for op, _ in walk(body) if op.name == KEEP_OPENING)),
        tuple(sorted(Counter(operation.name for operation, _ in walk(body)).items())),
    )


def _argument_faults(body: Region, correlations: Sequence[CorrelationInput]) -> list[str]:
    """Masks and factors must be secret ring integers, and no argument may be two of them."""
    numbers = [number for c in correlations for number in (c.mask, *c.factors)]
    faults = [f"argument {n}: is part of two correlations" for n, times in Counter(numbers).items() if times > 1]
    for correlation in correlations:
        for number in (correlation.mask, *correlation.factors):
            if not is_ring_integer(body.arguments[number]):
                part = "the mask" if number == correlation.mask else "a factor"
                faults.append(f"argument {number}: is {part} of {correlation.name}, but is no secret ring integer")
    return faults


def _require_known(operation: Operation, known: KnownValues) -> None:
    """The operation is on the list, keeps its rule, and makes nothing public of something secret."""
    rule = ALLOWED.get(operation.name)
    if rule is None or (operation.applies and operation.applies not in ALLOWED):
        raise _Fault(
            f"{operation.applies if rule else operation.name} is not among the operations that the audit knows"
        )
    if rule.public_from is not None and any(value.kind.secret for value in operation.operands[rule.public_from :]):
        raise _Fault(f"{operation.name} has a secret where SPU may reveal it: only something public may stand there")
    if operation.name == KEEP_OPENING:
        _require_input(operation.operands[0], known)
    if operation.name == WHILE:
        _require_public_loop(operation)
    elif operation.name == IF:
        _require_same_kinds(operation, [region.returned for region in operation.regions])
    if operation.name not in (WHILE, REVEAL):
        _require_secret_results(operation, operation.operands[: rule.shape_only])


def _require_input(value: Value, known: KnownValues) -> None:
    """A product's opening may be kept of an argument alone, which stays where it is as long as the runtime pins it."""
    if value not in known.names:
        raise _Fault("keeps the opening of a value that is no argument, and so does not stay where it is")
    if value in known.masks or value in known.factors:
        raise _Fault("keeps the opening of a mask or factor, which one run alone may use")


def _require_secret_results(operation: Operation, given: Sequence[Value]) -> None:
    returned = [value for region in operation.regions for value in region.returned]
    if any(value.kind.secret for value in (*given, *returned)) and not all(
        result.kind.secret for result in operation.results
    ):
        raise _Fault("may make something public of something secret")


def _require_public_loop(operation: Operation) -> None:
    """A loop's values keep their types, so that only its condition could tell something secret."""
    condition, body = operation.regions
    if len(condition.returned) != 1 or condition.returned[0].kind.secret:
        raise _Fault("may make something public of something secret: how often the loop runs")
    _require_same_kinds(operation, [body.returned, operation.operands])


def _require_same_kinds(operation: Operation, values: Sequence[Sequence[Value]]) -> None:
    """What comes out of regions has the types of the operation's results."""
    kinds = [result.kind for result in operation.results]
    if any([value.kind for value in returned] != kinds for returned in values):
        raise _Fault("has a region whose values have other types than its results")


def _mask_of(reveal: Operation, known: KnownValues, *, inside: bool) -> Value:
    """The argument that masks an opening, if the opening is a sum or difference with such a mask, used once."""
    if inside:
        raise _Fault("the opening is inside a region, so it may run more than once")
    if len(reveal.operands) != 1 or not is_ring_integer(reveal.operands[0]):
        raise _Fault("what is opened is not a secret ring integer")
    difference = known.makers.get(_chain(reveal.operands[0], known)[-1])
    if difference is None or difference.name not in ("pphlo.add", "pphlo.subtract"):
        raise _Fault("what is opened is not a difference value - mask")
    chains = [_chain(operand, known) for operand in difference.operands]
    masked = [chain for chain in chains if chain[-1] in known.masks]
    if not masked:
        raise _Fault("what is opened is not masked: neither operand is the mask of a correlation")
    if len({value.kind.shape for value in (*difference.operands, *difference.results)}) > 1:
        raise _Fault("the value and its mask have other shapes")
    for chain in masked:
        if all(known.uses[value] == 1 for value in chain):
            return chain[-1]
    name, times = known.names[masked[0][-1]], max(known.uses[value] for value in masked[0])
    raise _Fault(f"mask {name} is used {times} times, not once")


def _chain(value: Value, known: KnownValues) -> list[Value]:
    """The values from `value` back to where its elements come from, through operations that only move them."""
    chain = [value]
    while (maker := known.makers.get(value)) is not None and maker.name in _MOVES:
        (source,) = maker.operands
        if maker.name == "pphlo.bitcast_convert" and not (
            {source.kind.element, value.kind.element} <= _NUMBERS and source.kind.shape == value.kind.shape
        ):
            break
        value = source
        chain.append(value)
    return chain


def _require_independent(reveal: Operation, known: KnownValues, opened: set[CorrelationInput]) -> None:
    """The opened value must be computed from no factor of a correlation that is still to be opened."""
    seen: set[Value] = set()
    todo = list(reveal.operands)
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in known.factors and known.factors[value] not in opened:
            raise _Fault(f"the opened value depends on {known.names[value]}, whose mask is not opened before it")
        if value in known.makers:
            todo += sources(known.makers[value])


def _opening(operation: Operation, mask: Value, known: KnownValues) -> Opening:
    number = known.body.arguments.index(mask)
    return Opening(operation.line, known.names[mask], number, prod(operation.operands[0].kind.shape))
