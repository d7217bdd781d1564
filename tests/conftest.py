"""Runtimes that tests share: starting one and compiling for it takes longer than most tests."""

from collections.abc import Callable

import pytest
from parties import SETTINGS, Setting

from secp_spu.protocol import AuditReport
from secp_spu.runtime import LocalRuntime, program


@pytest.fixture(scope="session")
def runtimes():
    """A function (setting, source) -> LocalRuntime, the same one for every test unless it has failed."""
    made: dict[tuple[Setting, str], LocalRuntime] = {}

    def get(setting: Setting, source: str = "joint") -> LocalRuntime:
        key = setting, source
        if key not in made or made[key]._failure:
            made[key] = LocalRuntime(*setting, correlations=source)
        return made[key]

    yield get
    for runtime in made.values():
        runtime.close()


@pytest.fixture(params=SETTINGS, ids=lambda setting: f"{setting[0]}-{setting[1]}")
def setting(request) -> Setting:
    """Protocol and number of parties, one after another."""
    return request.param


@pytest.fixture
def runtime(runtimes: Callable[..., LocalRuntime], setting: Setting) -> LocalRuntime:
    """A shared runtime with joint correlations."""
    return runtimes(setting)


@pytest.fixture
def unaudited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs compile whatever they open, to see what the audit spares us."""
    monkeypatch.setattr(program, "audit_program", lambda *_, program, **__: AuditReport(program, ()))
