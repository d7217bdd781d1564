"""Private soft-prompt tuning of transformers on SecretFlow SPU."""

from secp_spu._threads import keep_threads_apart

TYPE_CHECKING = False  # as type checkers know it; the module `typing` takes longer to import than this package
if TYPE_CHECKING:
    __version__: str
    from secp_spu.adaptation.training import Recipe
    from secp_spu.api import (
        DEMO_CONFIG,
        TunedRun,
        adapt,
        audit,
        export,
        load_config,
        load_run,
        predict,
        tune,
    )
    from secp_spu.auditing import AuditError
    from secp_spu.config import Config
    from secp_spu.errors import ConfigError, RuntimeFailure
    from secp_spu.model import CheckpointError
    from secp_spu.progress import Progress
    from secp_spu.runtime import LocalRuntime, Owned, PlaintextRuntime
    from secp_spu.tuning import Prediction

__all__ = [
    "DEMO_CONFIG",
    "AuditError",
    "CheckpointError",
    "Config",
    "ConfigError",
    "LocalRuntime",
    "Owned",
    "PlaintextRuntime",
    "Prediction",
    "Progress",
    "Recipe",
    "RuntimeFailure",
    "TunedRun",
    "adapt",
    "audit",
    "export",
    "load_config",
    "load_run",
    "predict",
    "tune",
]

_ELSEWHERE = {
    "AuditError": "auditing",
    "CheckpointError": "model",
    "Config": "config",
    "ConfigError": "errors",
    "LocalRuntime": "runtime",
    "Owned": "runtime",
    "PlaintextRuntime": "runtime",
    "Progress": "progress",
    "RuntimeFailure": "errors",
}
"""Modules of the names that are not in `secp_spu.api`; all are imported when they are first used."""

# Importing does nothing else; this has to come before anything loads libspu.
keep_threads_apart()


if not TYPE_CHECKING:

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            return version("secp-spu")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
