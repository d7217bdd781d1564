"""The folder that Ray puts its sockets and logs into: refuses one in which Ray could not start, with the fix."""

from __future__ import annotations

import os
from pathlib import Path

from ray._private.utils import get_ray_temp_dir

from secp_spu.errors import ConfigError

SOCKET_PATH_BYTES = 107
"""Linux's limit (sun_path in unix(7), less the final zero)."""

_FIX = "set RAY_TMPDIR to a folder of this user's with a short name, such as /tmp/NAME"


def check_ray_folder() -> None:
    """Refuse a folder that another user owns, that cannot be written, or whose sockets' paths would be too long.

    Raises: ConfigError.
    """
    folder = Path(get_ray_temp_dir())
    sockets = folder / f"session_2000-01-01_00-00-00_000000_{os.getpid()}" / "sockets" / "plasma_store"
    if (length := len(os.fsencode(sockets))) > SOCKET_PATH_BYTES:
        raise ConfigError(
            f"Ray's temporary folder {folder} has too long a name: its sockets' paths would have {length} bytes, and "
            f"{SOCKET_PATH_BYTES} are allowed; {_FIX}"
        )
    try:
        if folder.exists() and folder.stat().st_uid != os.geteuid():
            raise ConfigError(f"Ray's temporary folder {folder} belongs to another user: {_FIX}")
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(f"Ray's temporary folder {folder} cannot be used ({error.strerror}): {_FIX}") from error
    if not writable:
        raise ConfigError(f"Ray's temporary folder {folder} cannot be written to: {_FIX}")
