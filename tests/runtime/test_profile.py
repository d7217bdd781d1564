"""Reading SPU's log: what a run cost, and that it opened what was proven and nothing else."""

import subprocess
import sys

import numpy as np
import pytest
from jax import lax
from parties import ABY3, shared
from spu.experimental import reveal

from secp_spu.auditing import AuditReport
from secp_spu.errors import RuntimeFailure
from secp_spu.protocol import declare_correlation, open_masked, to_ring
from secp_spu.runtime import LocalRuntime, program
from secp_spu.runtime.ledger import Cost
from secp_spu.runtime.profile import ProfileError, UnprovenOpening, check_openings, parse_profile


def party_log(multiply=(120, 2), reveal=(48, 1), link=None):
    """What one party of SPU 0.9.5 logs of a run."""
    link = link or (multiply[0] + reveal[0], multiply[1] + reveal[1])
    prefix = "2026-11-23 14:42:17.433 [info] [api.cc:printProfilingData:"
    return (
        f"{prefix}172] [Profiling] SPU execution f completed, input processing took 1.3e-05s, execution took 0.01s, "
        "output processing took 4.7e-06s, total time 0.011217896s.\n"
        f"{prefix}220] HLO profiling: total time 0.002255746\n"
        f"{prefix}223] - pphlo.free, executed 3 times, duration 1e-06s, send bytes 0 recv bytes 0, "
        "send actions 0, recv actions 0\n"
        f"{prefix}223] - pphlo.multiply, executed 1 times, duration 0.5s, send bytes {multiply[0]} recv bytes 120, "
        f"send actions {multiply[1]}, recv actions 2\n"
        f"{prefix}223] - pphlo.custom_call: spu.reveal, executed 2 times, duration 2.5e-01s, send bytes {reveal[0]} "
        f"recv bytes 48, send actions {reveal[1]}, recv actions 1\n"
        f"{prefix}233] Link details: total send bytes {link[0]}, recv bytes 168, send actions {link[1]}, "
        "recv actions 3\n"
    )


def test_parse_profile_reads_the_rows_of_all_parties():
    rows = parse_profile(party_log() + party_log(multiply=(80, 1)), parties=2)
    assert rows == [
        ("multiply", Cost(120, 2, 0.25)),
        ("spu.reveal", Cost(48, 1, 0.125)),
        ("multiply", Cost(80, 1, 0.25)),
        ("spu.reveal", Cost(48, 1, 0.125)),
    ]


def test_parse_profile_reads_lines_in_any_order():
    """The parties write at the same time."""
    lines = (party_log() + party_log()).splitlines(keepends=True)
    mixed = parse_profile("".join(lines[::2] + lines[1::2]), parties=2)
    assert sorted(map(str, mixed)) == sorted(map(str, parse_profile("".join(lines), parties=2)))


@pytest.mark.parametrize(("text", "found"), [("", 0), (party_log(), 1), (party_log() * 3, 3)])
def test_parse_profile_misses_a_party(text, found):
    with pytest.raises(ProfileError, match=f"SPU's log has {found} totals, not one of each of 1 parts at 2 parties"):
        parse_profile(text, parties=2)


@pytest.mark.parametrize(("link", "by_links"), [((169, 3), r"\(337, 6\)"), ((168, 4), r"\(336, 7\)")])
def test_parse_profile_misses_a_row(link, by_links):
    """A line that it could not read must not be a cost that nobody counts."""
    with pytest.raises(
        ProfileError, match=rf"operations sent \(336, 6\) \(bytes, messages\), but the links {by_links}"
    ):
        parse_profile(party_log() + party_log(link=link), parties=2)


def test_parse_profile_misses_a_row_of_another_form():
    text = (party_log() * 2).replace("- pphlo.multiply, executed", "- pphlo.multiply was executed", 1)
    with pytest.raises(ProfileError, match=r"operations sent \(216, 4\)"):
        parse_profile(text, parties=2)


WARNING = (
    "2026-11-28 07:07:26.008 [warning] [pphlo_intrinsic_executor.cc:intrinsic_dispatcher:76] "
    "rank: 1, Some secret values are revealed.\n"
)
INDEX = (
    "2026-11-28 07:07:26.008 [warning] [indexing.cc:DynamicUpdateSlice:567] "
    "Reveal 1th start index of DynamicUpdateSlice\n"
)


def test_openings_are_as_many_as_were_proven():
    check_openings(2 * party_log() + 4 * WARNING, "f", parties=2, openings=2)


@pytest.mark.parametrize(
    ("text", "openings", "found"),
    [
        (2 * party_log() + 4 * WARNING, 1, "proved 1 openings of each of 2 parties, but SPU counts 4 and warns of 4"),
        (2 * party_log() + 4 * WARNING, 3, "proved 3 openings of each of 2 parties, but SPU counts 4 and warns of 4"),
        (2 * party_log() + 3 * WARNING, 2, "SPU counts 4 and warns of 3 in all"),
        (party_log() + 4 * WARNING, 2, "SPU counts 2 and warns of 4 in all"),
        (2 * party_log() + 4 * WARNING + INDEX, 2, "SPU warns of an opening that the audit does not know: Reveal 1th"),
        (
            INDEX,
            0,
            "SPU warns of an opening that the audit does not know: Reveal 1th start index of DynamicUpdateSlice",
        ),
    ],
)
def test_other_openings_than_were_proven(text, openings, found):
    with pytest.raises(UnprovenOpening, match=f"f: .*{found}"):
        check_openings(text, "f", parties=2, openings=openings)


# In real runs, whose proof is left out


LEAKS = {
    "an opening": (lambda x: reveal(to_ring(x)), "SPU counts 3 and warns of 3 in all"),
    "a secret index": (
        lambda x: lax.dynamic_update_slice(x, x[:, :1], (0, x[0, 0].astype(np.int32))),
        "SPU warns of an opening that the audit does not know: Reveal 1th start index of DynamicUpdateSlice",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_run_that_opens_more_than_was_proven_ends_the_runtime(monkeypatch, leak):
    """If the proof were wrong, or SPU opened what its source does not say, the first run would tell."""
    fn, found = LEAKS[leak]
    monkeypatch.setattr(program, "audit_program", lambda *_, program, **__: AuditReport(program, "", ()))
    runtime = LocalRuntime(*ABY3)
    x = shared(runtime, np.ones((3, 5), np.float32))
    with pytest.raises(RuntimeFailure, match=f"all parties ended: leak: .*{found}"):
        runtime.run("leak", fn, x)
    with pytest.raises(RuntimeFailure, match="all parties ended"):
        shared(runtime, np.ones(3, np.float32))


def test_a_run_that_opens_less_than_was_proven_ends_the_runtime(monkeypatch):
    honest = program.audit_program

    def boast(*args, **kwargs):
        report = honest(*args, **kwargs)
        return AuditReport(report.program, report.sha256, report.openings * 2)

    monkeypatch.setattr(program, "audit_program", boast)
    runtime = LocalRuntime(*ABY3)
    x, correlation = shared(runtime, np.ones(3, np.float32)), runtime.correlations(declare_correlation((3,)))
    with pytest.raises(RuntimeFailure, match="open: the audit proved 2 openings of each of 3 parties, but SPU counts"):
        runtime.run("open", lambda x, c: open_masked(to_ring(x), c.mask), x, correlation)


LOGGER = """
import jax.numpy as jnp, numpy as np, spu
from spu.utils import simulation
from spu.experimental import reveal
import secp_spu
from secp_spu.runtime import LocalRuntime

def opens():
    simulation.sim_jax(simulation.Simulator.simple(2, spu.ProtocolKind.SEMI2K, spu.FieldType.FM64), reveal)(np.ones(3))

with LocalRuntime("aby3", 3), LocalRuntime("semi2k", 2):
    opens()
print("closed", flush=True)
opens()
"""


def test_a_runtime_gives_back_spus_logger(tmp_path):
    """What SPU logs of other programs goes to the console again, and no file is left."""
    done = subprocess.run([sys.executable, "-c", LOGGER], capture_output=True, text=True, check=True, cwd=tmp_path)
    during, after = done.stdout.split("closed")
    assert "Some secret values are revealed" not in during
    assert after.count("Some secret values are revealed") == 2
    assert not list(tmp_path.iterdir())
