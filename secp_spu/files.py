"""Reads text files; writes files as a whole, and keeps secret ones for their owner's eyes alone."""

from __future__ import annotations

import os
from pathlib import Path


class NotUtf8(ValueError):
    """A file holds other bytes than UTF-8; the message says where, and what to do."""

    def __init__(self, error: UnicodeDecodeError):
        super().__init__(f"not UTF-8 at byte {error.start}: save it as UTF-8")


def read_utf8(path: Path) -> str:
    """The text of a file, without the mark that some editors put before it; lines end as Python has them.

    Raises: OSError; NotUtf8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUtf8(error) from error


def decode_utf8(content: bytes) -> str:
    """The text of a file's bytes, without such a mark; lines end as they do there.

    Raises: NotUtf8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUtf8(error) from error


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written to a folder, which need not be there yet; None where nothing speaks against it."""
    try:
        found = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name that is too long, or in a folder that may not be looked into
        return f"{folder} cannot be written ({error.strerror}): choose another folder"
    if not found.is_dir():
        return f"{found} is a file: choose a folder"
    return None if os.access(found, os.W_OK | os.X_OK) else f"{found} cannot be written: choose another folder"


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it that are not there, for their owner alone (mode 700, whatever the umask).

    Folders that are there keep their modes.

    Raises: OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(0o700, exist_ok=True)
        path.chmod(0o700)


def write_whole(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write atomically: an interruption or a full disk leaves the file before or after, and nothing beside it.

    Args:
        path: of the file; its folder is made if it is not there.
        content: all of it.
        secret: whether the file is for its owner's eyes alone: mode 600, and 700 of a folder that is made, whatever the
            umask and the modes of the file before.
    Raises: OSError.
    """
    part = path.with_name(f"{path.name}.part")
    if secret:
        make_private_folder(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if secret:
                os.fchmod(descriptor, 0o600)
            file.write(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
