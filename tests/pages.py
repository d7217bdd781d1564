"""Code that a page of docs/ shows, as modules: tests run what readers copy."""

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

DEVELOPMENT = Path(__file__).parents[1] / "docs" / "development.md"


def code(name: str) -> str:
    """The Python block of docs/development.md under the comment that names it."""
    page = DEVELOPMENT.read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- python: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    return found


@cache
def example(name: str) -> ModuleType:
    """That block as a module."""
    module = ModuleType(f"example_{name}")
    sys.modules[module.__name__] = module
    exec(compile(code(name), module.__name__, "exec"), module.__dict__)
    return module
