import hashlib

import numpy as np
import pytest
from parties import SEMI2K_2, opened, peek, shared
from spu.experimental import reveal

from secp_spu.auditing import AuditError
from secp_spu.protocol import declare_correlation, open_masked, to_ring
from secp_spu.runtime import Spec, compile_program

FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int32)
SECRET, PUBLIC = Spec((3, 5), FLOAT, secret=True), Spec((5,), FLOAT, secret=False)


def mixed(x, tree):
    """Outputs of both kinds, of several shapes, in a tree."""
    return {"sum": x + tree["w"], "public": [tree["w"] * 2, (tree["w"] > 0)], "scalar": x.sum(), "same": tree["w"]}


def test_compile_program_says_shape_type_and_visibility_of_every_output():
    program = compile_program("mixed", mixed, (SECRET, {"w": PUBLIC}))
    assert program.outputs == {
        "sum": Spec((3, 5), FLOAT, secret=True),
        "public": [Spec((5,), FLOAT, secret=False), Spec((5,), np.dtype(bool), secret=False)],
        "scalar": Spec((), FLOAT, secret=True),
        "same": PUBLIC,
    }
    assert program.name == "mixed"
    assert program.audit.program == "mixed"
    assert program.audit.openings == ()
    assert program.audit.sha256 == hashlib.sha256(program.code).hexdigest()
    assert b"func.func" in program.code


def test_compile_program_compiles_nothing_that_fails_the_audit():
    with pytest.raises(AuditError, match=r"leak, line \d+: what is opened is not a difference"):
        compile_program("leak", lambda x: reveal(to_ring(x)), (SECRET,))


def test_compile_program_passes_on_what_jax_says():
    with pytest.raises(TypeError, match="incompatible shapes|dot_general"):
        compile_program("wrong", lambda x: x @ x, (SECRET,))


def test_outputs_of_a_run_are_what_the_program_says(runtimes):
    runtime = runtimes(SEMI2K_2)
    x, w = np.arange(15, dtype=np.float32).reshape(3, 5), np.arange(5, dtype=np.float32) - 2
    out = runtime.run("mixed", mixed, shared(runtime, x), {"w": runtime.publish(w)})
    assert out["sum"].spec == Spec((3, 5), FLOAT, secret=True)
    assert out["public"][1].spec.secret is False
    numbers = opened(runtime, {"sum": out["sum"], "scalar": out["scalar"], "same": out["same"]})
    np.testing.assert_array_equal(numbers["sum"], x + w)
    np.testing.assert_array_equal(numbers["scalar"], x.sum())
    np.testing.assert_array_equal(numbers["same"], w)


def swap(first, second, correlation):
    return second, first, open_masked(to_ring(first), correlation.mask)


def test_inputs_keep_their_places(runtimes):
    """Unused inputs too: the compiler must not renumber what the audit and the parties go by."""
    runtime = runtimes(SEMI2K_2)
    first, second = shared(runtime, np.float32([1, 2, 3])), shared(runtime, np.float32([4, 5]))
    unused = shared(runtime, np.int32([7]))
    correlation = runtime.correlations(declare_correlation((3,)))
    t = peek(runtime, correlation.tree.mask)
    b, a, delta = runtime.run("swap", lambda _, *args: swap(*args), unused, first, second, correlation)
    np.testing.assert_array_equal(opened(runtime, b), [4, 5])
    np.testing.assert_array_equal(opened(runtime, a), [1, 2, 3])
    np.testing.assert_array_equal(peek(runtime, delta), np.uint64([1 << 18, 2 << 18, 3 << 18]) - t)
