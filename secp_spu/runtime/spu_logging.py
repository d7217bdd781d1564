"""`spu.logging`, which SecretFlow 1.13.0b0 reads when it is imported and spu 0.9.5 has only as `spu.libspu.logging`.

patches/ mends spu itself; this does the same in a process, for an environment that was installed without the patches.
"""

import spu


def provide_spu_logging() -> bool:
    """Name SPU's logging where SecretFlow looks for it; also run in each of Ray's workers.

    Returns: whether it was there already.
    """
    there = hasattr(spu, "logging")
    if not there:
        spu.logging = spu.libspu.logging
    return there
