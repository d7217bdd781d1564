"""A file's content in, the file as a whole or the one before it out."""

from __future__ import annotations

import os
from pathlib import Path


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written to a folder, which need not be there yet; None where nothing speaks against it."""
    try:
        found = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name that is too long, or in a folder that may not be looked into
        return f"{folder} cannot be written ({error.strerror}): choose another folder"
    if not found.is_dir():
        return f"{found} is a file: choose a folder"
    return None if os.access(found, os.W_OK | os.X_OK) else f"{found} cannot be written: choose another folder"


def write_whole(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write atomically: an interruption leaves the file before or after, never between.

    Args:
        path: of the file; its folder is made if it is not there.
        content: all of it.
        secret: whether the file is for its owner's eyes alone.
    Raises: OSError.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    part.touch(0o600 if secret else 0o666)
    part.write_bytes(content)
    part.replace(path)
