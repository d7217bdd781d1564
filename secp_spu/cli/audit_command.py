"""The command `secp-spu audit`: prints, writes and shows the proofs of a configuration's programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secp_spu.auditing import AuditReport, audit_json, marked
from secp_spu.cli.terminal import ConfigOption, SetOption
from secp_spu.config import Config, load_config
from secp_spu.errors import ConfigError
from secp_spu.files import unwritable, write_whole
from secp_spu.runtime import Program
from secp_spu.trees import JsonObject
from secp_spu.tuning import refuse_existing
from secp_spu.tuning.programs import audit_config


def audit(
    config: ConfigOption,
    settings: SetOption = [],  # noqa: B006 - typer's way
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the proofs, with digests of what is executed.")
    ] = None,
    show: Annotated[
        str | None, typer.Option(help="Print the program of this name instead, its openings marked.")
    ] = None,
) -> None:
    """Prove that all openings of a configuration are masked. Its programs are compiled, and none runs."""
    if json_file is not None:
        refuse_existing(json_file)
        if reason := unwritable(json_file.absolute().parent):
            raise ConfigError(f"--json: {reason}")
    loaded = load_config(config, settings)
    audited = audit_config(loaded)
    programs = audited.programs
    console = Console()
    if show is not None:
        _show(programs, show)
    else:
        _summarise(console, [program.audit for program in programs])
        console.print(_told(loaded, audited.opened), soft_wrap=True)
    if json_file is not None:
        facts = _facts(loaded) | {"opened_to_the_data_owner": dict(audited.opened)}
        reports = audit_json([program.audit for program in programs], facts)
        write_whole(json_file, (json.dumps(reports, indent=2) + "\n").encode())
        if show is None:
            console.print(f"proofs in {json_file}", soft_wrap=True)


def _told(config: Config, opened: dict[str, int]) -> str:
    """What the programs' results tell, which is no matter of masks."""
    gradients = f"{opened['gradients']:,} numbers of gradients" if opened["gradients"] else "no gradient"
    prompt = f", and at the end the {opened['prompt']:,} numbers of its prompt" if opened["prompt"] else ""
    count = config.tuning.generations
    run = f"a run of {count} generation{'s' if count > 1 else ''}"
    return f"{run} opens to the data owner alone: {opened['logits']:,} logits and {gradients}{prompt}"


def _facts(config: Config) -> JsonObject:
    return {
        "protocol": config.protocol,
        "parties": config.parties,
        "correlations": config.correlations,
        "versions": {name: version(name) for name in ("secp-spu", "spu", "jax")},
    }


def _show(programs: Sequence[Program], name: str) -> None:
    found = [program for program in programs if program.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(program.name for program in programs))
        raise ConfigError(f"--show {name}: there is no such program; there are {names}")
    for number, program in enumerate(found, 1):
        print(f"// {name}, shape {number} of {len(found)}, SHA-256 {program.audit.sha256}")
        print(marked(program.code.decode(), program.audit))


def _summarise(console: Console, reports: Sequence[AuditReport]) -> None:
    rows = Counter((report.program, report.masks) for report in reports)
    table = Table("program", "compiled for", "openings", "masked by")
    for (program, masks), times in rows.items():
        shapes = f"{times} shape{'s' if times > 1 else ''}"
        table.add_row(program, shapes, str(len(masks)), ", ".join(masks) or "nothing is opened")
    console.print(table)
    operations = {name for report in reports for name, _ in report.operations}
    console.print(
        f"{len(reports)} programs of {len(operations)} kinds of operations: every opening is proven masked, by a mask "
        "that is used once",
        soft_wrap=True,
    )
