"""The runtime that audits and runs nothing."""

import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, SEMI2K_3

from secp_spu.protocol import cos_sin, declare_correlation
from secp_spu.runtime import AuditRuntime, Owned


@pytest.mark.parametrize(
    ("setting", "source", "programs"),
    [
        (ABY3, "joint", ["rotate"]),
        (SEMI2K_2, "joint", ["combine", "rotate"]),
        (SEMI2K_3, "joint", ["combine", "rotate"]),
        (SEMI2K_2, "dealt", ["rotate"]),
    ],
)
def test_the_programs_that_a_run_has_are_compiled(setting, source, programs):
    """Correlations are made by a program where SEMI2K's parties make them."""
    with AuditRuntime(*setting, correlations=source) as runtime:
        x = runtime.share(Owned("alice", np.ones((5, 3), np.float32)))
        correlations = runtime.correlations(declare_correlation((5, 7)))
        runtime.run("rotate", cos_sin, x, runtime.publish(np.ones((3, 7), np.float32)), correlations)
        assert [program.name for program in runtime.programs] == programs
        assert [len(program.audit.openings) for program in runtime.programs] == [0] * (len(programs) - 1) + [1]
