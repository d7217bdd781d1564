"""Writes the page docs/configuration.md, which explains every key, from the models of the configuration."""

from __future__ import annotations

from textwrap import fill

from secp_spu.config.keys import Group, Key, key_groups

WIDTH = 120
"""Characters of a line of the page."""

INTRODUCTION = """\
<!-- Written by `secp-spu config --page`: change the descriptions in secp_spu/config/, and write the page again. -->

# Configuration

A configuration is a YAML file. `secp-spu tune --config FILE` reads it, and so do the other commands that run a model.

- `secp-spu init own-model --out FILE` writes a configuration to start from, with comments; so do `init demo` and
  `init cluster`.
- `--set KEY=VALUE` overrides a key for one call, such as `--set tuning.population=8`. The value is YAML.
- `secp-spu config --explain KEY` explains a key in the terminal; without KEY it lists all keys.
- `secp-spu config --schema > secp-spu.schema.json` writes a JSON schema, with which editors complete and check a
  configuration. With the YAML language server, the first line of the configuration names it:
  `# yaml-language-server: $schema=secp-spu.schema.json`.

**Values** are YAML. Put yes, no and numbers that stand for words in quotes. Unknown keys are refused.

**Paths** are relative to the folder of the configuration. `${VARIABLE}` in a path stands for an environment variable,
`~` in front for the home folder, and `package:NAME/FOLDER` finds a folder inside an
installed Python package.

**In a cluster** every party has a configuration. Before a run the parties compare them, and a difference ends the run.
Keys that are marked *own* are not compared: each party may have its own value, and needs only the files that it reads.
"""


def configuration_page() -> str:
    """The page, as Markdown."""
    return "\n".join([INTRODUCTION, *(_section(group) for group in key_groups())])


def _section(group: Group) -> str:
    title = f"`{group.name}`" if group.name else "Keys outside of the sections"
    about = [_wrapped(paragraph) for paragraph in group.about] if group.name else []
    return "\n\n".join([f"## {title}", *about, "\n".join(_item(key) for key in group.keys)]) + "\n"


def _item(key: Key) -> str:
    own = "; *own*" if key.own else ""
    return _wrapped(f"- **`{key.place[-1]}`** ({key.values}{own}): {key.description}", indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
