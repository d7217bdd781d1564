"""Says what an audit found: as objects, as JSON, and as a program's text with its openings marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secp_spu.trees import Json, JsonObject


@dataclass(frozen=True)
class Opening:
    """An opening that is proven masked.

    Attributes:
        line: of the program's text, from 1.
        mask: the name of the input that masks it.
        argument: the number of that input.
        elements: how many ring elements are opened.
    """

    line: int
    mask: str
    argument: int
    elements: int


@dataclass(frozen=True)
class AuditReport:
    """What was proven of a program.

    Attributes:
        program: its name.
        sha256: digest of the text that is executed, in hexadecimal.
        openings: every value that the program opens.
        kept: arguments of which SPU keeps the opening from run to run, so that they must stay where they are.
        operations: every operation of the text, and how often it stands there.
    """

    program: str
    sha256: str
    openings: tuple[Opening, ...]
    kept: tuple[int, ...] = ()
    operations: tuple[tuple[str, int], ...] = ()

    @property
    def masks(self) -> tuple[str, ...]:
        """The mask of every opening."""
        return tuple(opening.mask for opening in self.openings)

    def as_json(self) -> JsonObject:
        """The same as JSON's types."""
        return {
            "program": self.program,
            "sha256": self.sha256,
            "openings": [
                {"line": o.line, "mask": o.mask, "argument": o.argument, "elements": o.elements} for o in self.openings
            ],
            "kept_openings_of_arguments": list(self.kept),
            "operations": dict(self.operations),
        }


COVERS = (
    "Every value that these programs open to the compute parties is proven to be v - t: t is a mask that this run "
    "alone uses, once, and v depends on no cosine or sine of a mask that is not opened before it. No operation outside "
    "a list of known ones is used, and none makes something public of something secret. No result is made of masks and "
    "their cosines and sines alone: each of these has gone through a product with something that its own opening gave. "
    "The digests are of the texts that are executed."
)
"""What is proven, for whoever reads the report."""

DOES_NOT_COVER = (
    "That SPU does with a program what its source says; that masks are uniform and fresh (the runtime makes them so, "
    "and tests hold it); what a program's results tell an owner to whom they are opened; parties that do not follow "
    "the protocol; sizes and times of messages."
)
"""What is not."""


def audit_json(reports: Sequence[AuditReport], facts: Mapping[str, Json]) -> JsonObject:
    """The proofs of all programs of a run.

    Args:
        reports: of the programs.
        facts: about the run: protocol, versions.
    """
    operations: Counter[str] = Counter()
    for report in reports:
        operations.update(dict(report.operations))
    return {
        "format": 1,
        **facts,
        "covers": COVERS,
        "does_not_cover": DOES_NOT_COVER,
        "openings": sum(len(report.openings) for report in reports),
        "operations": dict(sorted(operations.items())),
        "programs": [report.as_json() for report in reports],
    }


def marked(code: str, report: AuditReport) -> str:
    """A program's text, numbered, each opening marked with its mask."""
    masks = {opening.line: opening.mask for opening in report.openings}
    lines = code.splitlines()
    width = len(str(len(lines)))
    shown = []
    for number, line in enumerate(lines, 1):
        sign, note = (">", f"    // opens value - {masks[number]}") if number in masks else (" ", "")
        shown.append(f"{sign} {number:{width}} {line}{note}")
    return "\n".join(shown)
