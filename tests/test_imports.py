"""The rooms of the house: which package may import which, and who may import what runs programs or talks to peers."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import secp_spu

ROOT = Path(secp_spu.__file__).parent

BASE = {"arguments", "errors", "files", "progress", "drawing", "spu_release", "trees"}
"""Modules that every package may use; they use no package."""

MAY_IMPORT = {
    "protocol": set(),
    "optimizers": set(),
    "network": set(),
    "auditing": set(),
    "model": {"protocol"},
    "config": {"protocol", "optimizers", "model"},
    "runtime": {"protocol", "auditing", "network", "config"},
    "inference": {"protocol", "model", "runtime"},
    "adaptation": {"protocol", "model"},
    "baseline": {"protocol", "model", "runtime", "inference"},
    "tuning": {"protocol", "model", "runtime", "inference", "config", "optimizers", "network", "auditing"},
    "bench": {
        *("protocol", "model", "runtime", "inference", "config", "optimizers", "auditing"),
        *("adaptation", "baseline", "tuning"),
    },
}
"""Packages below the command line and the Python API, with those that each may import. `runtime` and `model` do not
know each other: `inference` puts a model on a runtime."""

ONLY_IN = {
    "spu": {"protocol", "runtime", "inference", "bench/processes.py"},
    "secretflow": {"runtime/secretflow"},
    "ray": {"runtime/secretflow"},
    "fed": {"runtime/secretflow", "network/transport.py"},
    "grpc": {"network"},
    "pydantic": {"config", "bench/schema.py"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"drawing.py", "adaptation", "tuning", "bench"},
}
"""Where a library may be imported. bench/processes.py has SPU parties in processes that it starts itself."""


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.append(str(node.module))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_down(package):
    allowed = MAY_IMPORT[package] | BASE | {package}
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            if name.startswith("secp_spu."):
                assert name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", sorted(BASE))
def test_what_all_packages_use_uses_none(module):
    assert {name for name in imports(ROOT / f"{module}.py") if name.startswith("secp_spu")} <= {"secp_spu.errors"}


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_are_imported_where_they_belong(library):
    for path in ROOT.rglob("*.py"):
        if any(name.split(".")[0] == library for name in imports(path)):
            place = path.relative_to(ROOT)
            assert any(place.is_relative_to(allowed) for allowed in ONLY_IN[library]), f"{place} imports {library}"


def test_every_package_has_its_rules():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"cli"} == set(MAY_IMPORT)


def test_no_two_modules_have_one_name():
    names = Counter(path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
