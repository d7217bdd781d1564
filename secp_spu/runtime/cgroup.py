"""Memory that this process may still use, and what was killed for lack of it, by control groups of version 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")


@dataclass(frozen=True)
class Files:
    """What a version calls its files, and their fields.

    Attributes:
        limit, used: files with a number of bytes; no limit is "max", or a number beyond any memory.
        inactive: field of memory.stat for what the kernel takes back first, as it is on disk too.
        killed: file with the field `oom_kill`: processes of the group that the kernel ended for lack of memory.
    """

    limit: str
    used: str
    inactive: str
    killed: str


V1 = Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
V2 = Files("memory.max", "memory.current", "inactive_file", "memory.events")


@dataclass(frozen=True)
class MemoryGroup:
    """A control group whose memory is accounted.

    Attributes:
        folder: of its files.
        files: what they are called.
    """

    folder: Path
    files: Files

    def left_bytes(self) -> int | None:
        """What its limit leaves; None without a limit."""
        try:
            limit, used = (int((self.folder / name).read_text()) for name in (self.files.limit, self.files.used))
            return max(0, limit - used + self._field("memory.stat", self.files.inactive))
        except (OSError, ValueError, KeyError):  # no limit ("max"), or the group has gone
            return None

    def killed(self) -> int | None:
        """Processes of the group and of those below that the kernel ended for lack of memory; None where not told."""
        try:
            return self._field(self.files.killed, "oom_kill")
        except (OSError, ValueError, KeyError):
            return None

    def _field(self, name: str, field: str) -> int:
        return int(dict(line.split() for line in (self.folder / name).read_text().splitlines())[field])


def memory_groups(proc: Path = PROC) -> list[MemoryGroup]:
    """This process's control group and those above it, from the innermost on; of both versions where both are there.

    Args:
        proc: where the kernel tells of processes.
    """
    try:
        own = (proc / "self" / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in own:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            files = V2 if number == "0" else V1
            groups += [MemoryGroup(folder, files) for folder in _folders(path, files, mounts)]
    return groups


def _folders(path: str, files: Files, mounts: list[str]) -> Iterator[Path]:
    """The folders of a control group and those above it, as far as they are mounted here."""
    for mount in mounts:
        # ID parent device ROOT MOUNT_POINT options [optional ...] - TYPE source OPTIONS
        before, _, after = mount.partition(" - ")
        root, point = (_unescaped(field) for field in before.split()[3:5])
        kind, *_, options = after.split()
        if kind == ("cgroup2" if files is V2 else "cgroup") and (files is V2 or "memory" in options.split(",")):
            # A container sees its own group as the root of the mount, and its path from there or from the host's root.
            inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path(path.lstrip("/"))
            folder = Path(point) / inside if ".." not in inside.parts else Path(point)
            if not folder.is_dir():
                folder = Path(point)
            yield from (f for f in (folder, *folder.parents) if f.is_relative_to(point))
            return


def _unescaped(field: str) -> str:
    """The kernel writes blanks and backslashes of paths as octal numbers."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), field)


def oom_kills(proc: Path = PROC) -> int | None:
    """How many processes of this one's control group the kernel has ended for lack of memory; None where not told.

    Args:
        proc: where the kernel tells of processes.
    """
    told = [count for group in memory_groups(proc) if (count := group.killed()) is not None]
    return told[0] if told else None  # the innermost group counts its processes, whichever group's limit it was


def why_killed(before: int | None, proc: Path = PROC) -> str:
    """Whether it was for lack of memory that a process of this control group was killed, as a clause of a message.

    Args:
        before: `oom_kills` at an earlier time.
        proc: where the kernel tells of processes.
    """
    now = oom_kills(proc)
    if before is None or now is None:
        return "whether for lack of memory cannot be told here, where no control group counts it"
    if now == before:
        return "not for lack of memory, as the oom_kill counter of its control group says"
    return (
        "for lack of memory, as the oom_kill counter of its control group says: give it more, or lower "
        "tuning.candidates_per_call"
    )


def available_bytes(proc: Path = PROC) -> int:
    """Memory that this machine, or the tightest of the control groups that this process is in, has left.

    Args:
        proc: where the kernel tells of processes.
    """
    left = [bytes_ for group in memory_groups(proc) if (bytes_ := group.left_bytes()) is not None]
    available: int = psutil.virtual_memory().available
    return min([available, *left])
