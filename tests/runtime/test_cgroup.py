"""The groups that limit a process are its own and those above, wherever they are mounted."""

import os
from pathlib import Path

import numpy as np
import pytest
from cgroups import container, write_group, write_proc

from secp_spu.runtime import LocalRuntime
from secp_spu.runtime.cgroup import available_bytes, memory_groups, oom_kills, why_killed

GIB = 2**30


def _left(proc):
    return [group.left_bytes() for group in memory_groups(proc)]


@pytest.fixture
def v2(tmp_path):
    """A machine: user.slice has 8 GiB, the session 4 GiB, and the process's own group none."""
    top = tmp_path / "cgroup"
    write_group(top / "user.slice", 8 * GIB, 7 * GIB, GIB // 2)
    write_group(top / "user.slice" / "session", 4 * GIB, GIB, 0)
    write_group(top / "user.slice" / "session" / "own", "max", GIB, 0)
    mount = f"31 23 0:28 / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    return write_proc(tmp_path / "proc", groups=["0::/user.slice/session/own"], mounts=[mount])


def test_the_tightest_of_a_group_and_those_above_it_counts(v2, tmp_path):
    assert _left(v2) == [None, 3 * GIB, GIB + GIB // 2, None]  # the root has no files
    assert available_bytes(v2) == GIB + GIB // 2
    write_group(tmp_path / "cgroup" / "user.slice" / "session" / "own", GIB, GIB - 5, 0)
    assert available_bytes(v2) == 5
    write_group(tmp_path / "cgroup" / "user.slice" / "session" / "own", GIB, GIB + 7, 0)
    assert available_bytes(v2) == 0


def test_version_1_has_other_files_and_a_number_for_no_limit(tmp_path):
    top = tmp_path / "memory"
    write_group(top, 9223372036854771712, 30 * GIB, 0, v1=True)
    write_group(top / "job", 3 * GIB, GIB, GIB // 4, killed=2, v1=True)
    write_group(top / "job" / "a b", 9223372036854771712, GIB // 2, 0, killed=1, v1=True)
    mounts = [
        f"33 31 0:30 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu",
        f"35 31 0:32 / {top} rw - cgroup cgroup rw,memory",
        f"41 31 0:37 / {tmp_path / 'unified'} rw - cgroup2 cgroup2 rw",
    ]
    groups = ["9:name=systemd:/", "4:memory:/job/a b", "2:cpu,cpuacct:/job", "0::/"]
    proc = write_proc(tmp_path / "proc", groups=groups, mounts=mounts)
    assert available_bytes(proc) == 2 * GIB + GIB // 4
    assert oom_kills(proc) == 1


def test_a_container_finds_its_group_though_its_path_is_the_hosts(tmp_path):
    """Version 1 without a namespace: its group alone is mounted, and the path begins at the host's root."""
    write_group(tmp_path / "my memory" / "job", 2 * GIB, GIB, 0, v1=True)
    write_group(tmp_path / "my memory", 4 * GIB, GIB, 0, v1=True)
    point = str(tmp_path / "my memory").replace(" ", "\\040")
    mounts = [f"35 31 0:32 /docker/0a1b {point} ro - cgroup cgroup rw,memory"]
    inside = write_proc(tmp_path / "proc", groups=["4:memory:/docker/0a1b/job"], mounts=mounts)
    assert _left(inside) == [GIB, 3 * GIB]
    beside = write_proc(tmp_path / "proc", groups=["4:memory:/elsewhere/job"], mounts=mounts)
    assert _left(beside) == [3 * GIB]


def test_a_path_above_the_namespace_is_the_mount_itself(tmp_path):
    write_group(tmp_path / "cgroup", 2 * GIB, GIB, 0)
    mount = f"31 23 0:28 /../.. {tmp_path / 'cgroup'} rw - cgroup2 cgroup rw"
    proc = write_proc(tmp_path / "proc", groups=["0::/../../job"], mounts=[mount])
    assert _left(proc) == [GIB]


def test_where_nothing_is_told_there_is_no_limit(tmp_path):
    assert memory_groups(tmp_path) == []
    assert oom_kills(tmp_path) is None
    assert available_bytes(tmp_path) > 0


def test_this_process_is_in_its_groups():
    """The real files: of the kernel's own account of the group's processes."""
    groups = memory_groups()
    if not groups or not (groups[0].folder / "cgroup.procs").exists():
        pytest.skip("this machine has no control groups")
    members = [Path(group.folder / "cgroup.procs").read_text().split() for group in groups]
    assert any(str(os.getpid()) in pids for pids in members)


@pytest.mark.parametrize(
    ("before", "now", "clause"),
    [
        (0, 0, "not for lack of memory, as the oom_kill counter"),
        (3, 4, "for lack of memory, as the oom_kill counter"),
        (None, 0, "whether for lack of memory cannot be told"),
    ],
)
def test_a_killed_process_was_short_of_memory_if_the_groups_counter_rose(tmp_path, before, now, clause):
    proc = container(tmp_path, "max", killed=now)
    assert why_killed(before, proc).startswith(clause)
    assert why_killed(0, tmp_path / "none").startswith("whether for lack of memory cannot be told")


def test_what_a_limit_leaves_counts(tmp_path):
    proc = container(tmp_path, 2**31)
    assert available_bytes(proc) == 2**31 - 2**30 + 2**28
    (tmp_path / "cgroup" / "memory.max").write_text("max\n")
    free = available_bytes(proc)
    assert free > 2**31 - 2**30 + 2**28
    assert available_bytes(tmp_path / "none") == pytest.approx(free, rel=0.2)


def test_parties_of_one_machine_share_its_memory():
    with LocalRuntime("semi2k", 4) as runtime:
        np.testing.assert_allclose(4 * runtime.free_memory_bytes(), available_bytes(), rtol=0.2)
