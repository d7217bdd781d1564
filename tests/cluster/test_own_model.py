"""The example for people who bring their own model: it runs, and is as near to plaintext as the protocol says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from secp_spu.protocol import Scheme, cos_error_bound, joint_error_bound

pytestmark = pytest.mark.cluster


EXAMPLE_AND_MISUSE = """
import sys
import own_model_on_spu as example
import numpy as np, secretflow as sf
from spu.experimental import reveal
from secp_spu.auditing import AuditError
from secp_spu.protocol import SpentCorrelationError, declare_correlation, open_masked, to_ring
from secp_spu.runtime.secretflow.spu_correlations import SpuCorrelations

def opens(x, c):
    return open_masked(to_ring(x), c.mask)

def leaks(x, c):
    return opens(x, c), reveal(to_ring(x))

def under(x, mask):
    return to_ring(x) - mask

def refused(kind, *call):
    try:
        correlations.run("misuse", *call)
    except kind as error:
        print(type(error).__name__, error, flush=True)

made = correlations, spu, alice, _ = example.start()
example.start, sf.shutdown, sys.argv = lambda: made, lambda: None, ["own_model_on_spu.py"]
example.main()
before = len(correlations.programs)

x = alice(lambda: np.ones(3, np.float32))().to(spu)
fresh = correlations.make(declare_correlation((3,)))
refused(AuditError, leaks, x, fresh)  # which spends nothing
refused(SpentCorrelationError, lambda x, c, d: opens(x, c), x, fresh, fresh)
refused(SpentCorrelationError, under, x, fresh.tree.mask)
refused(SpentCorrelationError, opens, x, fresh.tree)
first = sf.reveal(correlations.run("open", opens, x, fresh))
second = sf.reveal(correlations.run("open", opens, x, correlations.make(declare_correlation((3,)))))
print("differ", bool((first != second).all()), len(correlations.programs) - before)
refused(SpentCorrelationError, opens, x, fresh)
refused(SpentCorrelationError, under, x, fresh.tree.mask)
others = SpuCorrelations(spu).make(declare_correlation((3,)))
refused(SpentCorrelationError, opens, x, others)
refused(SpentCorrelationError, under, x, others.tree.mask)
"""


@pytest.fixture(scope="module")
def output():
    """What the example prints, and after it what uses prints that are refused, with the same devices."""
    paths = os.pathsep.join(
        [str(Path("scripts").absolute()), os.environ["PYTHONPATH"]]
    )  # Ray's processes import it too
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE_AND_MISUSE],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_and_its_errors_are_small(output):
    errors = dict(re.findall(r"^(.+): (\S+) from plaintext at most$", output, re.MULTILINE))
    bound = cos_error_bound(18, 0.75, factor_bits=18, mask_error=joint_error_bound(Scheme("aby3", 3), 18))
    assert 0 < float(errors["cosine and sine"]) < bound
    # a feature's error enters numerator and denominator of a mean over 8 tokens and 32 features
    assert 0 < float(errors["random feature attention"]) < 20 * bound
    for name, mask in (("cosine", "1.0"), ("attention", "6.0")):
        proof = rf"^{name}: 1 opening, masked by {re.escape(mask)}\.mask, SHA-256 [0-9a-f]{{16}}\.\.\.$"
        assert re.search(proof, output, re.MULTILINE)


def test_a_correlation_serves_one_run_of_an_audited_program(output):
    lines = [line for line in output.splitlines() if re.match("AuditError|SpentCorrelationError|differ", line)]
    assert [line.split()[0] for line in lines] == [
        "AuditError",
        *["SpentCorrelationError"] * 3,
        "differ",
        *["SpentCorrelationError"] * 4,
    ], output
    assert lines[4] == "differ True 1"
