"""Cuts a program where every party computes a public step by itself: a chain of programs for SPU, and NumPy between.

A program is compiled and audited as one text. A statement of it that SPU does not know, such as that of
`secp_spu.protocol.waves`, takes public values and gives a public one. What stands before, between and behind such
statements are programs of their own, linked by SPU's variables, which stay where they are. Their lines are those of the
whole text, but for their first, their last, and `pphlo.free` of values that they do not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from secp_spu.auditing.operations import CONSTANT, NATIVE
from secp_spu.auditing.parser import Kind, Operation, Region, Value, parse_program
from secp_spu.auditing.values import sources

_FREE = re.compile(r"pphlo\.free (%[\w#]+) : .*")


@dataclass(frozen=True)
class Step:
    """A part of a program. Values have their names in the whole text.

    Attributes:
        code: a program for SPU; None for a public step, which a party computes itself.
        inputs: the values that it takes.
        outputs: the values that it gives; the last step's are the whole program's results, in order.
        last: values that were made on the way, and that nothing needs any more.
    """

    code: bytes | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last: tuple[str, ...]


@lru_cache(maxsize=256)
def chain_of(code: bytes) -> tuple[Step, ...]:
    """The steps of a program that was audited, in order: one for a program that has no public step.

    Raises: UnreadableProgram.
    """
    lines = code.decode().splitlines()
    body = parse_program(code.decode())
    groups = list(_groups(body))
    if len(groups) == 1:
        return (Step(code, _names(body.arguments), _names(body.returned), ()),)
    used = [_used(group) for group in groups[:-1]] + [_used(groups[-1]) | dict.fromkeys(body.returned)]
    # SPU looks at what a factor is made of, so a constant belongs to every part that uses it.
    constants = {operation.results[0]: operation for operation in body.operations if operation.name == CONSTANT}
    needed = [
        list(values) if _is_native(group) else [value for value in values if value not in constants]
        for group, values in zip(groups, used, strict=True)
    ]
    steps = []
    for number, group in enumerate(groups):
        later = {value for values in needed[number + 1 :] for value in values}
        here = [] if _is_native(group) else [constants[value] for value in used[number] if value in constants]
        group = sorted({*here, *group}, key=lambda operation: operation.line)
        made = dict.fromkeys(value for operation in group for value in operation.results)
        inputs = [value for value in needed[number] if value not in made]
        outputs = [value for value in made if value in later] if number < len(groups) - 1 else list(body.returned)
        last = _names(value for value in inputs if value not in later and value not in body.arguments)
        part = None if _is_native(group) else _program(lines, body, group, inputs, outputs)
        steps.append(Step(part, _names(inputs), _names(outputs), last))
    return tuple(steps)


def _is_native(group: Sequence[Operation]) -> bool:
    return bool(group) and group[0].name in NATIVE


def parts_of(code: bytes) -> int:
    """How many programs for SPU a program is cut into."""
    return sum(step.code is not None for step in chain_of(code))


def _names(values: Iterable[Value]) -> tuple[str, ...]:
    return tuple(value.name for value in values)


def _groups(body: Region) -> Iterator[list[Operation]]:
    """Statements that belong together, each public step by itself; the last group, which returns, may be empty."""
    group: list[Operation] = []
    for operation in body.operations:
        if operation.name not in NATIVE:
            group.append(operation)
            continue
        if group:
            yield group
        yield [operation]
        group = []
    yield group


def _used(group: Sequence[Operation]) -> dict[Value, None]:
    return dict.fromkeys(value for operation in group for value in sources(operation))


def _program(
    lines: Sequence[str], body: Region, group: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value]
) -> bytes:
    """The text of a part."""
    everywhere = {*body.arguments, *(value for operation in body.operations for value in operation.results)}
    here = {*inputs, *(value for operation in group for value in operation.results)}
    elsewhere = set(_names(everywhere - here))
    ends = dict(pairwise([*(operation.line for operation in body.operations), body.line]))
    kept = [
        line
        for operation in group
        for line in lines[operation.line - 1 : ends[operation.line] - 1]
        if not _frees(line, elsewhere)
    ]
    arguments = ", ".join(f"{value.name}: {_type(value.kind)}" for value in inputs)
    kinds = ", ".join(_type(value.kind) for value in outputs)
    text = [
        lines[0],
        f"  func.func @main({arguments}) -> ({kinds}) {{",
        *kept,
        f"    return {', '.join(_names(outputs))} : {kinds}" if outputs else "    return",
        "  }",
        "}",
        "",
    ]
    return _renamed("\n".join(text), _names(inputs)).encode()


def _frees(line: str, values: set[str]) -> bool:
    free = _FREE.fullmatch(line.strip())
    return free is not None and free[1] in values


def _renamed(text: str, inputs: Sequence[str]) -> str:
    """One of a statement's several results, %4#1, is no name of an argument."""
    for name in inputs:
        if "#" in name:
            other = "%of_" + name[1:].replace("#", "_")  # SPU's compiler names values by numbers alone
            text = re.sub(rf"{re.escape(name)}\b", other, text)
    return text


def _type(kind: Kind) -> str:
    element = f"!pphlo.secret<{kind.element}>" if kind.secret else kind.element
    return f"tensor<{''.join(f'{size}x' for size in kind.shape)}{element}>"
