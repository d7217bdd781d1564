"""The commands `secp-spu config` and `secp-spu init`: explain configurations, and write some to start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from secp_spu.config import (
    Group,
    Key,
    TemplateName,
    config_schema,
    configuration_page,
    find_key,
    key_groups,
    make_template,
    render_template,
)
from secp_spu.errors import ConfigError
from secp_spu.files import unwritable, write_whole
from secp_spu.tuning import refuse_existing


def show_config(
    key: Annotated[
        str | None,
        typer.Argument(help="With --explain: a key or section, such as tuning.sigma or cluster.", show_default=False),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain KEY; without KEY list all keys.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema, for editors.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Print docs/configuration.md.")] = False,
) -> None:
    """Explain the keys of a configuration. Give one of --explain [KEY], --schema and --page."""
    if explain + schema + page != 1 or (key is not None and not explain):
        raise ConfigError(
            "secp-spu config explains the keys of a configuration: give one of --explain [KEY], --schema and --page"
        )
    if schema:
        print(json.dumps(config_schema(), indent=2))
    elif page:
        print(configuration_page(), end="")
    elif key is None:
        _list_all(Console())
    else:
        _explain(Console(), *find_key(key))


def init(
    template: Annotated[TemplateName, typer.Argument(help="What the configuration is for.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
) -> None:
    """Write a commented configuration to start from."""
    try:
        refuse_existing(out)
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written ({error.strerror}): choose another file") from error
    if reason := unwritable(out.absolute().parent):
        raise ConfigError(f"--out: {reason}")
    made = make_template(template)
    write_whole(out, render_template(made).encode())
    fill_in = f"; fill in {', '.join(made.fill_in)}" if made.fill_in else ""
    Console().print(Text(f"{out} is written{fill_in}"), soft_wrap=True)


def _list_all(console: Console) -> None:
    for group in key_groups():
        _heading(console, group.name or "outside of the sections")
        _print_keys(console, group)
        console.print()
    console.print("secp-spu config --explain KEY explains a key in full, such as tuning.sigma.", highlight=False)


def _explain(console: Console, key: Key | None, section: Group | None) -> None:
    if key is not None:
        _heading(console, key.name)
        _print_rows(console, _facts(key))
        _print_paragraph(console, key.description)
    if section is not None:
        if key is None:
            _heading(console, section.name)
        for paragraph in section.about:
            _print_paragraph(console, paragraph)
        console.print()
        _heading(console, f"Keys of {section.name}")
        _print_keys(console, section)


def _facts(key: Key) -> list[tuple[str, str]]:
    """What is true of a key beside its description."""
    facts = [("values", key.allowed)]
    facts.append(("required", "yes") if key.required else ("default", key.default or "none"))
    if key.allowed == "path":
        facts.append(("path", "from the configuration's folder on; ${VARIABLE} and package:NAME/FOLDER are replaced"))
    if key.own or not key.allowed.startswith("section"):
        facts.append(
            ("in a cluster", "each party may have its own value" if key.own else "all parties have the same value")
        )
    return facts


def _print_keys(console: Console, group: Group) -> None:
    _print_rows(console, [(key.place[-1], f"{key.values}\n{key.summary}") for key in group.keys])


def _print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names on the left, and beside them their texts."""
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        lines = [line for paragraph in text.split("\n") for line in _wrapped(paragraph, console.width - width - 4)]
        for first, line in zip([name, *[""] * len(lines)], lines, strict=False):
            console.print(Text.assemble("  ", (first.ljust(width), "bold"), "  ", line), soft_wrap=True)


def _print_paragraph(console: Console, text: str) -> None:
    console.print()
    for line in _wrapped(text, console.width - 2):
        console.print(Text(f"  {line}"), soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, max(20, width), break_on_hyphens=False)


def _heading(console: Console, name: str) -> None:
    console.print(Text(name, "bold"), soft_wrap=True)
