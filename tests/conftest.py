"""Runtimes that tests share, for starting one and compiling for it takes longer than most tests; and PyTorch."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from parties import SETTINGS, Setting

from secp_spu.auditing import AuditReport
from secp_spu.runtime import LocalRuntime, profile, program

HOOKS = Path(__file__).parent / "hooks"
sys.path.insert(0, str(HOOKS))


def pytest_configure(config: pytest.Config) -> None:
    """Programs are compiled once for all tests, and kept for the next time."""
    from shared_programs import share

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    share(config.rootpath / ".pytest_cache" / "programs")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, object, object]:
    """A test is slow for a reason, which its mark gives. An error raised here is shown with `-n` too."""
    made = yield
    for item in made if isinstance(made, list) else ():
        for mark in item.iter_markers("slow"):
            if mark.kwargs or len(mark.args) != 1 or not str(mark.args[0]).strip():
                raise collector.CollectError(
                    f'{item.nodeid}: a slow test needs a reason: write @pytest.mark.slow("what this test alone holds, '
                    'and why it must be slow")'
                )
    return made


def missing_libraries() -> str | None:
    """What PyTorch's build for GPUs says where it cannot be imported, for the lock holds none of CUDA's libraries."""
    versions = [found.version for found in distributions(name="torch")]
    if not versions or versions[0].endswith("+cpu"):
        return None
    try:
        import torch  # noqa: F401
    except ImportError as error:
        if "cannot open shared object file" not in str(error):
            raise
        return str(error)
    return None


MISSING = missing_libraries()
if MISSING:
    os.environ["USE_TORCH"] = "0"  # otherwise transformers, whose Flax models other tests use, cannot be imported


@pytest.fixture(scope="session")
def pytorch() -> None:
    """What asks for it is skipped where PyTorch is a build for GPUs, without their libraries; for nothing else."""
    if MISSING:
        pytest.skip(f"PyTorch is not the build for CPUs, and its libraries are missing: {MISSING}")
    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")


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
def interruptible() -> Iterator[None]:
    """Processes that the test starts obey Ctrl-C, which they would ignore where a shell runs pytest in the background.

    A process inherits that a signal is ignored, but not a handler. `preexec_fn` would fork, of which JAX warns.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def unaudited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs compile and run whatever they open, to see what the audit spares us."""
    monkeypatch.setattr(profile, "check_openings", lambda *_: None)
    monkeypatch.setattr(program, "audit_program", lambda *_, program, **__: AuditReport(program, "", ()))
