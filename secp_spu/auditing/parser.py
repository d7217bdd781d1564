"""Parses the text of a compiled program (pphlo, of SPU's known releases) into operations on typed values.

This module alone knows the text. Every line is read whole: a line, type or operand that does not fit the grammar
below, or whose types differ from those of the values that it names, is an `UnreadableProgram`.

    module @NAME attributes {..., pphlo.version = "RELEASE"} {
      func.func @main(%arg0: TYPE, ...) -> TYPES {
        STATEMENT ...
        return VALUES : TYPES
      }
    }

A statement is one of

    RESULTS = pphlo.NAME OPERANDS ATTRIBUTES : SIGNATURE
    RESULTS = pphlo.custom_call @TARGET(OPERANDS) ATTRIBUTES : SIGNATURE
    RESULTS = pphlo.reduce(VALUE init: VALUE), ... [applies pphlo.NAME] ATTRIBUTES : SIGNATURE
        reducer(%arg: TYPE, ...) ... { STATEMENT ... }                      without `applies`
    RESULTS = pphlo.while(%arg = VALUE, ...) : TYPES
        cond { STATEMENT ... } do { STATEMENT ... }
    RESULTS = "pphlo.NAME"(OPERANDS) ATTRIBUTES ({ STATEMENT ... }, { ... }) ATTRIBUTES : SIGNATURE

A region ends with `pphlo.return VALUES : TYPES`. Its statements may use the values of the regions around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secp_spu.spu_release import RELEASES


class UnreadableProgram(ValueError):
    """A line that the grammar does not have.

    Attributes:
        line: its number, from 1.
    """

    def __init__(self, line: int, why: str):
        super().__init__(why)
        self.line = line


@dataclass(frozen=True)
class Kind:
    """Shape, element type (f32, i32, i1, ...) and visibility of a value."""

    shape: tuple[int, ...]
    element: str
    secret: bool


@dataclass(frozen=True, eq=False)
class Value:
    """What a statement or a function's argument defines. Two values are the same only if they are one object."""

    name: str
    kind: Kind


@dataclass(frozen=True, eq=False)
class Region:
    """A function's body, or a block inside an operation.

    Attributes:
        arguments: what it is given.
        operations: its statements, without `pphlo.free`.
        returned: what it hands back.
        line: the number of the line that does, from 1.
        text: that line.
    """

    arguments: tuple[Value, ...]
    operations: tuple[Operation, ...]
    returned: tuple[Value, ...]
    line: int
    text: str


@dataclass(frozen=True, eq=False)
class Operation:
    """A statement.

    Attributes:
        line: its number, from 1.
        text: its first line.
        name: `pphlo.NAME`, of a custom call `pphlo.custom_call @TARGET`.
        operands: in the order of the text; of a reduce, all inputs before all initial values.
        results: what it defines.
        regions: the blocks inside it.
        applies: the operation that a reduce applies, where it has no region.
    """

    line: int
    text: str
    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    regions: tuple[Region, ...] = ()
    applies: str | None = None


_ELEMENT = r"(?:f16|f32|f64|i1|i8|i16|i32|i64|ui8|ui16|ui32|ui64)"
_TYPE = rf"tensor<(?:\d+x)*(?:!pphlo\.secret<{_ELEMENT}>|{_ELEMENT})>"
_TYPES = rf"{_TYPE}(?:, {_TYPE})*"
_VALUE = r"%\w+(?:#\d+)?"
_VALUES = rf"{_VALUE}(?:, {_VALUE})*"
_ARGUMENTS = rf"%\w+: {_TYPE}(?:, %\w+: {_TYPE})*"

_KIND = re.compile(rf"tensor<((?:\d+x)*)(!pphlo\.secret<)?({_ELEMENT})>+")
_MODULE = re.compile(r"module @\w+ attributes \{(?:[^%]*[{ ])?pphlo\.version = \"([^\"%]*)\"[^%]*\} \{")
_FUNCTION = re.compile(rf"func\.func @main\(({_ARGUMENTS})?\) -> (?:{_TYPE}|\({_TYPES}\)) \{{")
_ARGUMENT = re.compile(rf"(%\w+): ({_TYPE})")
_RESULT = re.compile(r"(%\w+)(?::(\d+))? = (.+)")
_RETURN = re.compile(rf"(?:pphlo\.)?return(?: ({_VALUES}) : ({_TYPES}))?")
_FREE = re.compile(rf"pphlo\.free ({_VALUE}) : ({_TYPE})")
_SIGNATURE = re.compile(rf"(.*) : (?:\(({_TYPES})?\) -> (?:({_TYPE})|\(({_TYPES})\))|({_TYPES}))")

_PLAIN = re.compile(rf"(pphlo\.\w+)(?: ({_VALUES}))?((?:,| )[^%]*)?")
_CALL = re.compile(rf"(pphlo\.custom_call @[\w.]+)\(({_VALUES})?\)( \{{[^%]*\}})?")
_REDUCED = rf"\({_VALUE} init: {_VALUE}\)"
_REDUCE = re.compile(rf"(pphlo\.reduce)({_REDUCED}(?:, {_REDUCED})*)(?: applies (pphlo\.\w+))?( across [^%]*)")
_PAIR = re.compile(rf"\(({_VALUE}) init: ({_VALUE})\)")
_REDUCER = re.compile(rf"reducer(?:\({_ARGUMENTS}\) ?)+ *\{{")
_BOUND = rf"%\w+ = {_VALUE}"
_WHILE = re.compile(rf"pphlo\.while\(({_BOUND}(?:, {_BOUND})*)\)")
_GENERIC = re.compile(rf"\"(pphlo\.\w+)\"\(({_VALUES})?\)(?: <\{{[^%]*\}}>)? \(\{{")
_BLOCK = re.compile(rf"\^\w+\(({_ARGUMENTS})\):")
_GENERIC_END = re.compile(r"\}\)( \{[^%]*\})?( : .*)")


class _Lines:
    """The lines that are still to be read, without indentation."""

    def __init__(self, code: str):
        self._lines = [line.strip() for line in code.splitlines()]
        self.number = 0

    def next(self) -> str:
        while self.number < len(self._lines):
            self.number += 1
            if line := self._lines[self.number - 1]:
                return line
        raise self.refuse("the program ends early")

    def peek(self) -> str:
        before = self.number
        try:
            return self.next()
        finally:
            self.number = before

    def match(self, pattern: re.Pattern[str], line: str) -> re.Match[str]:
        found = pattern.fullmatch(line)
        if found is None:
            raise self.refuse("is not understood")
        return found

    def refuse(self, why: str) -> UnreadableProgram:
        return UnreadableProgram(self.number, why)


def parse_program(code: str) -> Region:
    """The body of a program's one function.

    Args:
        code: as SPU's compiler prints it.
    Returns: its arguments %arg0, %arg1, ... in order, its statements without `pphlo.free`, and what it returns.
    Raises: UnreadableProgram naming the line.
    """
    lines = _Lines(code)
    compiler = lines.match(_MODULE, lines.next())[1]
    if compiler not in RELEASES:
        raise lines.refuse(f"was compiled by SPU {compiler}, but the audit knows the programs of {', '.join(RELEASES)}")
    header = lines.match(_FUNCTION, lines.next())
    arguments = _arguments(lines, header[1] or "")
    if [value.name for value in arguments] != [f"%arg{i}" for i in range(len(arguments))]:
        raise lines.refuse("has arguments that are not %arg0, %arg1, ...")
    body = _region(lines, arguments, {})
    for _ in range(2):
        lines.match(re.compile(r"\}"), lines.next())
    if lines.number < len(code.rstrip().splitlines()):
        lines.next()
        raise lines.refuse("stands behind the program's one function")
    return body


def walk(region: Region) -> Iterator[tuple[Operation, bool]]:
    """All operations in the order of the text, and whether each is inside a region of another."""
    for operation in region.operations:
        yield operation, False
        for inner in operation.regions:
            yield from ((found, True) for found, _ in walk(inner))


def _region(lines: _Lines, arguments: tuple[Value, ...], outer: Mapping[str, tuple[Value, ...]]) -> Region:
    """Statements up to the return, which is read too."""
    scope = {**outer, **{value.name: (value,) for value in arguments}}
    operations: list[Operation] = []
    while True:
        line = lines.next()
        if found := _RETURN.fullmatch(line):
            returned = _operands(lines, found[1], scope)
            _check_kinds(lines, returned, _kinds(found[2]))
            return Region(arguments, tuple(operations), returned, lines.number, line)
        if found := _FREE.fullmatch(line):
            _check_kinds(lines, _operands(lines, found[1], scope), _kinds(found[2]))
            continue
        operation = _statement(lines, line, scope)
        operations.append(operation)
        if operation.results:
            scope[operation.results[0].name.partition("#")[0]] = operation.results


def _statement(lines: _Lines, line: str, scope: Mapping[str, tuple[Value, ...]]) -> Operation:
    number, result = lines.number, _RESULT.fullmatch(line)
    body = result[3] if result else line
    name, operands, regions, applies, body = _body(lines, body, scope)
    signature = lines.match(_SIGNATURE, body)
    inputs, outputs = _split_signature(signature, len(operands))
    _check_kinds(lines, operands, inputs)
    count = int(result[2] or 1) if result else 0
    if len(outputs) != count:
        raise lines.refuse(f"defines {count} values of {len(outputs)} types")
    names = [result[1] if count == 1 else f"{result[1]}#{i}" for i in range(count)] if result else []
    results = tuple(Value(*both) for both in zip(names, outputs, strict=True))
    return Operation(number, line, name, operands, results, regions, applies)


_Body = tuple[str, tuple[Value, ...], tuple[Region, ...], "str | None", str]
"""Name, operands, regions, the operation that a reduce applies, and the text that ends with the signature."""


def _body(lines: _Lines, body: str, scope: Mapping[str, tuple[Value, ...]]) -> _Body:
    """A statement behind its results; reads the lines of its regions too."""
    if found := _GENERIC.fullmatch(body):
        operands = _operands(lines, found[2], scope)
        regions, end = _generic_regions(lines, scope)
        return found[1], operands, regions, None, end
    text = lines.match(_SIGNATURE, body)[1]
    if found := _WHILE.fullmatch(text):
        return _while(lines, found[1], body, scope)
    if found := _REDUCE.fullmatch(text):
        inputs, starts = zip(*_PAIR.findall(found[2]), strict=True)
        operands = _operands(lines, ", ".join(inputs + starts), scope)
        regions = () if found[3] else (_reducer(lines, scope),)
        return found[1], operands, regions, found[3], body
    found = _CALL.fullmatch(text) or lines.match(_PLAIN, text)
    return found[1], _operands(lines, found[2], scope), (), None, body


def _while(lines: _Lines, bound: str, body: str, scope: Mapping[str, tuple[Value, ...]]) -> _Body:
    pairs = [pair.split(" = ") for pair in bound.split(", ")]
    operands = _operands(lines, ", ".join(start for _, start in pairs), scope)
    arguments = tuple(Value(name, start.kind) for (name, _), start in zip(pairs, operands, strict=True))
    lines.match(re.compile(r"cond \{"), lines.next())
    condition = _region(lines, arguments, scope)
    lines.match(re.compile(r"\} do \{"), lines.next())
    repeated = _region(lines, arguments, scope)
    lines.match(re.compile(r"\}"), lines.next())
    return "pphlo.while", operands, (condition, repeated), None, body


def _reducer(lines: _Lines, scope: Mapping[str, tuple[Value, ...]]) -> Region:
    header = lines.match(_REDUCER, lines.next())
    region = _region(lines, _arguments(lines, header[0]), scope)
    lines.match(re.compile(r"\}"), lines.next())
    return region


def _generic_regions(lines: _Lines, scope: Mapping[str, tuple[Value, ...]]) -> tuple[tuple[Region, ...], str]:
    """The regions between `({` and `})`, and the signature behind them."""
    regions = []
    while True:
        arguments: tuple[Value, ...] = ()
        if lines.peek().startswith("^"):
            arguments = _arguments(lines, lines.match(_BLOCK, lines.next())[1])
        regions.append(_region(lines, arguments, scope))
        line = lines.next()
        if line != "}, {":
            return tuple(regions), lines.match(_GENERIC_END, line)[2]


def _arguments(lines: _Lines, text: str) -> tuple[Value, ...]:
    found = tuple(Value(name, _kinds(kind)[0]) for name, kind in _ARGUMENT.findall(text))
    if len({value.name for value in found}) < len(found):
        raise lines.refuse("names an argument twice")
    return found


def _operands(lines: _Lines, text: str | None, scope: Mapping[str, tuple[Value, ...]]) -> tuple[Value, ...]:
    found = []
    for reference in text.split(", ") if text else ():
        name, _, number = reference.partition("#")
        values = scope.get(name, ())
        if (len(values) == 1) == bool(number) or int(number or 0) >= len(values):
            raise lines.refuse(f"names {reference}, which no line before it defines")
        found.append(values[int(number or 0)])
    return tuple(found)


def _kinds(text: str | None) -> list[Kind]:
    return [
        Kind(tuple(int(size) for size in shape.split("x")[:-1]), element, bool(secret))
        for shape, secret, element in _KIND.findall(text or "")
    ]


def _split_signature(signature: re.Match[str], operands: int) -> tuple[list[Kind], list[Kind]]:
    """Types of operands and of results; a signature of types alone is of both."""
    _, inputs, one, several, both = signature.groups()
    if both is None:
        return _kinds(inputs), _kinds(one or several)
    kinds = _kinds(both)
    return (kinds * operands if len(kinds) == 1 else kinds), kinds


def _check_kinds(lines: _Lines, values: Sequence[Value], kinds: Sequence[Kind]) -> None:
    if [value.kind for value in values] != list(kinds):
        raise lines.refuse("states other types than its operands have")
