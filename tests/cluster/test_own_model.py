"""The example for people who bring their own model: it runs, and is as near to plaintext as the protocol says."""

import re
import subprocess
import sys

import pytest

from secp_spu.protocol import Scheme, cos_error_bound, joint_error_bound

pytestmark = pytest.mark.cluster


def test_the_example_runs_and_its_errors_are_small():
    done = subprocess.run([sys.executable, "scripts/own_model_on_spu.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors = dict(re.findall(r"^(.+): (\S+) from plaintext at most$", done.stdout, re.MULTILINE))
    bound = cos_error_bound(18, 0.75, factor_bits=18, mask_error=joint_error_bound(Scheme("aby3", 3), 18))
    assert 0 < float(errors["cosine and sine"]) < bound
    # a feature's error enters numerator and denominator of a mean over 8 tokens and 32 features
    assert 0 < float(errors["random feature attention"]) < 20 * bound
    assert re.search(r"^cosine: 1 opening, masked by 2\.mask$", done.stdout, re.MULTILINE)
    assert re.search(r"^attention: 1 opening, masked by 2\.features\.mask$", done.stdout, re.MULTILINE)
