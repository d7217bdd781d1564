"""Fake trees of control groups, and of the files in which the kernel tells of them."""


def write_group(folder, limit, used, inactive, killed=0, *, v1=False):
    """A group's files; limit: bytes or "max"."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    stat = f"cache 5\n{'total_' if v1 else ''}inactive_file {inactive}"
    events = "memory.oom_control" if v1 else "memory.events"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (*zip(names, (limit, used), strict=True), ("memory.stat", stat)):
        (folder / name).write_text(f"{content}\n")
    (folder / events).write_text(f"low 0\noom_kill {killed}\n")


def write_proc(folder, *, groups, mounts):
    """`/proc/self/cgroup` and `mountinfo`."""
    (folder / "self").mkdir(parents=True, exist_ok=True)
    (folder / "self" / "cgroup").write_text("".join(f"{line}\n" for line in groups))
    (folder / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return folder


def container(tmp_path, limit, *, killed=0):
    """One group of version 2, of which 1 GiB is used, and a quarter of that can be had back; returns its /proc."""
    write_group(tmp_path / "cgroup", limit, 2**30, 2**28, killed)
    mount = f"31 23 0:28 / {tmp_path / 'cgroup'} rw - cgroup2 cgroup rw"
    return write_proc(tmp_path / "proc", groups=["0::/"], mounts=["22 1 8:1 / / rw - ext4 /dev/sda rw", mount])
