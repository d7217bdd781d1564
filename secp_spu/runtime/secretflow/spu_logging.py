"""`spu.logging`, which SecretFlow 1.13.0b0 reads when it is imported and spu 0.9.5 has only as `spu.libspu.logging`.

patches/ mends spu itself; this does the same in a process, for an environment that was installed without the patches.
"""

from collections.abc import Callable

import spu


def _provide_spu_logging() -> bool:
    """Name SPU's logging where SecretFlow looks for it.

    Returns: whether it was there already.
    """
    there = hasattr(spu, "logging")
    if not there:
        spu.logging = spu.libspu.logging
    return there


def worker_hook() -> Callable[[], None]:
    """The same for Ray's `worker_process_setup_hook`: workers get it by value, and it imports spu alone."""

    def hook() -> None:
        import spu

        if not hasattr(spu, "logging"):
            spu.logging = spu.libspu.logging

    return hook


SPU_LOGGING_PATCHED = _provide_spu_logging()
"""Whether the installed spu has the patch, so that other processes need nothing."""
