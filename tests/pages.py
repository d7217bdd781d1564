"""Code that a page of docs/ shows, as modules: tests run what readers copy."""

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
DEVELOPMENT = ROOT / "docs" / "development.md"


def code(name: str) -> str:
    """The Python block of docs/development.md under the comment that names it."""
    return _block(rf"<!-- python: {name} -->\n```python\n(.*?)```")


@cache
def example(name: str) -> ModuleType:
    """That block as a module."""
    module = ModuleType(f"example_{name}")
    sys.modules[module.__name__] = module
    exec(compile(code(name), module.__name__, "exec"), module.__dict__)
    return module


def install(name: str, folder: Path) -> None:
    """Copy the package into a folder, and add an example there as docs/development.md says: a file and two lines."""
    shutil.copytree(ROOT / "secp_spu", folder / "secp_spu")
    shutil.copy(ROOT / "pyproject.toml", folder)
    statement, entry = _block(rf"<!-- lines: {name} -->\n```\n(.*?)```").splitlines()
    (module,) = re.findall(r"from ([\w.]+) import \w+$", statement)
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    assert f"`{path.relative_to(folder / 'secp_spu')}`" in DEVELOPMENT.read_text(encoding="utf-8")
    assert not path.exists()
    path.write_text(code(name), encoding="utf-8")

    registry = path.with_name("__init__.py")
    lines = registry.read_text(encoding="utf-8").splitlines()
    after = max(i for i, line in enumerate(lines) if line.startswith("from secp_spu.") and line < statement)
    lines.insert(after + 1, statement)
    begin = next(i for i, line in enumerate(lines) if re.match(r"[A-Z]+: dict\[.*= \{$", line))
    lines.insert(lines.index("}", begin), entry)
    registry.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _block(pattern: str) -> str:
    (found,) = re.findall(pattern, DEVELOPMENT.read_text(encoding="utf-8"), re.DOTALL)
    return found
