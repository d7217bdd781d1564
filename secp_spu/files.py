"""A file's content in, the file as a whole or the one before it out."""

from __future__ import annotations

from pathlib import Path


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
