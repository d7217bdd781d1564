"""A party's log of a run: what was asked of it, by whom and when, in a file of its own.

Each line is a JSON object with `time` (UTC), `party`, `event` and what belongs to the event. It holds names, shapes,
counts and digests: never a value that was shared or opened.
"""

from __future__ import annotations

import json
import os
import stat
from datetime import datetime, timezone
from pathlib import Path

from secp_spu.errors import ConfigError
from secp_spu.files import make_private_folder


class Journal:
    """Writes the log, or nothing without a file.

    Args:
        path: of the file, which is made, for its owner's eyes alone, or added to; its folder is made too.
        party: whose log it is.
    Raises: ConfigError for a file that cannot be written.
    """

    def __init__(self, path: Path | None = None, party: str | None = None):
        self._path, self._party = path, party
        self._file: int | None = None
        if path is None:
            return
        try:
            make_private_folder(path.parent)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if stat.S_ISREG(os.fstat(self._file).st_mode):  # not a device or a pipe, which others may need
                os.fchmod(self._file, 0o600)
        except OSError as error:
            raise ConfigError(f"cluster.log: {path} cannot be written ({error.strerror}): name another file") from error

    def write(self, event: str, **facts: object) -> None:
        """Add a line.

        Args:
            event: what happened.
            facts: about it, as JSON; never a secret.
        Raises: ConfigError if it cannot be written: what is not logged is not done.
        """
        if self._file is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "party": self._party, "event": event, **facts}) + "\n"
        try:
            if os.write(self._file, line.encode()) < len(line):
                raise OSError(None, "the disk is full")
        except OSError as error:
            raise ConfigError(f"cluster.log: {self._path} cannot be written ({error.strerror}): make room") from error
