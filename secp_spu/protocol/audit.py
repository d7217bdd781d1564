"""The text of a compiled program in, a proof that each of its openings is masked out, or the line that is not.

The claim. Let the masks be independent, uniform over Z_2**64, and independent of all other inputs except the factors
(cos kt, sin kt) of their own correlation. If every `spu.reveal` of a program opens v - t such that

1. t is an input of the program that is a mask, and v - t is the only place where it is used;
2. v depends on no factor of a correlation unless that correlation's mask was opened on an earlier line;
3. v and t are secret ring integers, and the opening is at the top level of the program, so that it runs once;

and no other operation makes something public of something secret, then all openings together are uniform and
independent of every input: in the order of the program, t is independent of v and of all earlier openings (by 1 and
2), so v - t is uniform given these. What the runtime must add, and does: an input that is a mask was made by
`CorrelationMaker`, and is given to one run of one program, as one input.

The parser knows what SPU's compiler prints; what it does not understand near an opening is a fault, not a pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_STATEMENT = re.compile(r"^ {4}(?=[^\s}])")
_RESULT = re.compile(r"^\s*(%\w+)(?::\d+)? = (.*)$", re.DOTALL)
_VALUE = re.compile(r"%\w+")
_INNER = re.compile(r"(%\w+)(?::\d+)?(?: =|: tensor<)")
_OPERATION = re.compile(r"\"?([\w.]+)\"?(?: @([\w.]+))?")
_ARGUMENT = re.compile(r"(%arg\d+): (tensor<[^,)]*>)")
_SECRET_INTEGERS = re.compile(r"tensor<(?:\d+x)*!pphlo\.secret<i32>>")
_SIGNATURE = re.compile(r": \((.*)\) -> (.*)$")
_SECRET_CONDITION = re.compile(r"pphlo\.return .*secret.*\n *\} do \{")
_CALL = re.compile(r"custom_call @([\w.]+)")
# What SPU 0.9.5 can be asked by name, except for spu.dbg_print, which writes a secret into the log.
_CALLS = {
    "mhlo.erf",
    "mhlo.topk",
    "spu.drop_cached_var",
    "spu.epsilon",
    "spu.gather",
    "spu.make_cached_var",
    "spu.prefer_a",
    "spu.reveal",
}
# Operations that hand on every element exactly once, in another place, under another type or with the other sign.
_MOVES = {"pphlo.reshape", "pphlo.transpose", "pphlo.bitcast_convert", "pphlo.negate"}


class AuditError(ValueError):
    """A program has an opening that is not proven masked; the message names each with its line."""


@dataclass(frozen=True)
class AuditReport:
    """What was proven of a program: each opening's line, and the name of the input that masks it."""

    program: str
    openings: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class _Operation:
    """A statement of the program's body, with all regions inside it."""

    line: int
    text: str
    name: str
    result: str | None
    operands: tuple[str, ...]


@dataclass(frozen=True)
class _Program:
    operations: Sequence[_Operation]
    makers: Mapping[str, _Operation]
    uses: Mapping[str, int]
    names: Mapping[str, str]
    masks: Mapping[str, str]
    factors: Mapping[str, str]


def audit_program(
    code: str,
    input_names: Sequence[str],
    *,
    masks: Mapping[str, str],
    factors: Mapping[str, str],
    program: str = "program",
) -> AuditReport:
    """Prove that every opening of a compiled program is masked, by a mask that is used once.

    Args:
        code: the program as SPU's compiler prints it (pphlo).
        input_names: the names of its arguments %arg0, %arg1, ...
        masks: input name -> correlation, of the inputs that are masks.
        factors: input name -> correlation, of the inputs that are cos kt or sin kt.
        program: its name, for messages.
    Raises: AuditError naming everything that is not proven, with its line.
    """
    parsed = _parse(code, input_names, masks, factors)
    faults = [f"{program}, line {n}: may make something public of something secret: {t}" for n, t in _leaks(code)]
    openings: list[tuple[int, str]] = []
    opened: set[str] = set()
    for op in parsed.operations:
        if "spu.reveal" not in op.text:
            continue
        try:
            mask = _mask_of(op, parsed)
            _require_independent(op, parsed, opened)
        except AuditError as fault:
            faults.append(f"{program}, line {op.line}: {fault}: {op.text.splitlines()[0].strip()}")
        else:
            openings.append((op.line, parsed.names[mask]))
            opened.add(parsed.masks[mask])
    if faults:
        raise AuditError("\n".join(faults))
    return AuditReport(program, tuple(openings))


def _parse(code: str, input_names: Sequence[str], masks: Mapping[str, str], factors: Mapping[str, str]) -> _Program:
    if code.count("func.func") != 1:
        raise AuditError(f"a program of {code.count('func.func')} functions: the audit reads programs of one")
    operations = [op for op in _statements(code) if op.name != "pphlo.free"]
    makers = {op.result: op for op in operations if op.result}
    uses = Counter(operand for op in operations for operand in op.operands)
    names = {f"%arg{i}": name for i, name in enumerate(input_names)}
    integers = {value for value, kind in _ARGUMENT.findall(code) if _SECRET_INTEGERS.fullmatch(kind)}
    mask_values = {v: masks[n] for v, n in names.items() if n in masks and v in integers}
    factor_values = {v: factors[n] for v, n in names.items() if n in factors}
    return _Program(operations, makers, uses, names, mask_values, factor_values)


def _statements(code: str) -> list[_Operation]:
    """The statements of the function's body; a region belongs to the statement that opens it."""
    groups: list[tuple[int, list[str]]] = []
    for number, line in enumerate(code.splitlines(), 1):
        if _STATEMENT.match(line):
            groups.append((number, [line]))
        elif groups and line.startswith("    "):
            groups[-1][1].append(line)
    operations = []
    for number, lines in groups:
        text = "\n".join(lines)
        body = _RESULT.match(text)
        result, statement = (body.group(1), body.group(2)) if body else (None, text.strip())
        kind = _OPERATION.match(statement)
        name = (kind.group(2) or kind.group(1)) if kind else ""
        inner = set(_INNER.findall(statement))
        operands = tuple(value for value in _VALUE.findall(statement) if value not in inner)
        operations.append(_Operation(number, text, name, result, operands))
    return operations


def _leaks(code: str) -> list[tuple[int, str]]:
    """Lines, other than openings, that have secret operands and no secret result, or call what is not known.

    And loops that run while a secret holds. The shape, all that `broadcast_as` takes of its operand, is public.
    """
    found = [(code.count("\n", 0, m.start()) + 1, m.group().split("\n")[0]) for m in _SECRET_CONDITION.finditer(code)]
    for number, line in enumerate(code.splitlines(), 1):
        found += [(number, line.strip()) for called in _CALL.findall(line) if called not in _CALLS]
        signature = _SIGNATURE.search(line)
        if signature and not any(word in line for word in ("spu.reveal", "func.func", "pphlo.broadcast_as")):
            operands, results = signature.groups()
            if "secret" in operands and "secret" not in results:
                found.append((number, line.strip()))
    return found


def _mask_of(reveal: _Operation, program: _Program) -> str:
    """The %arg that masks an opening, if the opening is a sum or difference with such a mask, used once."""
    if "\n" in reveal.text or reveal.name != "spu.reveal" or len(reveal.operands) != 1:
        raise AuditError("the opening is inside a region, so it may run more than once")
    if not _SECRET_INTEGERS.search(reveal.text):
        raise AuditError("what is opened is not a secret ring integer")
    difference = program.makers.get(_chain(reveal.operands[0], program)[-1])
    if difference is None or difference.name not in ("pphlo.add", "pphlo.subtract"):
        raise AuditError("what is opened is not a difference value - mask")
    chains = [_chain(operand, program) for operand in difference.operands]
    masked = [chain for chain in chains if chain[-1] in program.masks]
    if not masked:
        raise AuditError("what is opened is not masked: neither operand is the mask of a correlation")
    for chain in masked:
        reused = [value for value in chain if program.uses[value] != 1]
        if not reused:
            return chain[-1]
    name, times = program.names[masked[0][-1]], max(program.uses[value] for value in masked[0])
    raise AuditError(f"mask {name} is used {times} times, not once")


def _chain(value: str, program: _Program) -> list[str]:
    """The values from `value` back to where its elements come from, through operations that only move them."""
    chain = [value]
    while value in program.makers and program.makers[value].name in _MOVES:
        value = program.makers[value].operands[0]
        chain.append(value)
    return chain


def _require_independent(reveal: _Operation, program: _Program, opened: set[str]) -> None:
    """The opened value must be computed from no factor of a correlation that is still to be opened."""
    seen: set[str] = set()
    todo = list(reveal.operands)
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in program.factors and program.factors[value] not in opened:
            raise AuditError(f"the opened value depends on {program.names[value]}, whose mask is not opened before it")
        if value in program.makers:
            todo += program.makers[value].operands
        elif value not in program.names:
            raise AuditError(f"it is not understood where {value} comes from")
