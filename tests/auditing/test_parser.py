"""The parser reads what SPU's compiler prints whole, or refuses it."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from secp_spu.auditing.parser import Kind, UnreadableProgram, parse_program, walk
from secp_spu.runtime import Spec, compile_program

pytestmark = pytest.mark.smoke

FLOAT = np.dtype(np.float32)

PROGRAM = """
module @jit_program attributes {mhlo.is_dynamic = false, pphlo.version = "0.9.5"} {
  func.func @main(%arg0: SECRET, %arg1: tensor<2x3xf32>) -> (SECRET, tensor<i1>) {
    %0 = pphlo.constant dense<[[1, 2, 3], [4, 5, 6]]> : tensor<2x3xf32>
    %1 = pphlo.add %arg0, %0 : (SECRET, tensor<2x3xf32>) -> SECRET
    pphlo.free %0 : tensor<2x3xf32>
    %2 = pphlo.constant dense<true> : tensor<i1>
    return %1, %2 : SECRET, tensor<i1>
  }
}
""".strip().replace("SECRET", "tensor<2x3x!pphlo.secret<f32>>")


def secret(*shape):
    return Spec(shape, FLOAT, secret=True)


def public(*shape):
    return Spec(shape, FLOAT, secret=False)


def compiled(fn, *inputs):
    return parse_program(compile_program("f", fn, inputs).code.decode())


def test_values_have_shape_type_and_visibility():
    body = parse_program(PROGRAM)
    assert [value.kind for value in body.arguments] == [Kind((2, 3), "f32", True), Kind((2, 3), "f32", False)]
    constant, add, flag = body.operations
    assert (add.name, add.line) == ("pphlo.add", 4)
    assert add.operands == (body.arguments[0], constant.results[0])
    assert flag.results[0].kind == Kind((), "i1", False)
    assert body.returned == (add.results[0], flag.results[0])
    assert (body.line, body.text.split()[0]) == (7, "return")


def test_values_of_one_name_in_two_regions_are_two():
    body = compiled(lambda x: lax.fori_loop(0, 3, lambda _, a: a * x, x), secret(5))
    (loop,) = (op for op, _ in walk(body) if op.name == "pphlo.while")
    condition, repeated = loop.regions
    assert loop.operands[1] is body.arguments[0]
    assert condition.arguments == repeated.arguments
    names = [{v.name for op in region.operations for v in op.results} for region in loop.regions]
    shared = names[0] & names[1]
    assert shared, "the compiler numbers each region from the same number on"
    values = [[v for op in region.operations for v in op.results if v.name in shared] for region in loop.regions]
    assert not set(values[0]) & set(values[1])
    (product,) = (op for op in repeated.operations if op.name == "pphlo.multiply")
    assert body.arguments[0] in product.operands, "of the function around it"
    assert condition.returned[0].kind == Kind((), "i1", False)


def test_regions_of_a_branch_are_read():
    body = compiled(lambda x, p: lax.cond(p[0] > 0, lambda a: a, lambda a: -a, x), secret(5), public(5))
    (branch,) = (op for op, _ in walk(body) if op.name == "pphlo.if")
    assert [len(region.operations) for region in branch.regions] == [1, 0]
    assert branch.regions[1].returned == (body.arguments[0],)
    assert [(op.name, inside) for op, inside in walk(body) if inside] == [("pphlo.negate", True)]


def test_a_reduction_names_what_it_applies_or_has_a_region():
    body = compiled(lambda x: (x.sum(0), x.argmax(0)), secret(3, 5))
    total, largest = sorted((op for op, _ in walk(body) if op.name == "pphlo.reduce"), key=lambda op: len(op.results))
    assert (total.applies, total.regions) == ("pphlo.add", ())
    assert largest.applies is None
    assert len(largest.results) == 2
    assert len(largest.operands) == 4
    assert len(largest.regions[0].arguments) == 4


@pytest.mark.parametrize(
    ("fn", "inputs", "name"),
    [
        (lambda x: jnp.pad(x, 1), [secret(5)], "pphlo.pad"),
        (lambda x, w: x @ w, [secret(3, 5), public(5, 7)], "pphlo.dot"),
        (lambda x: x.T + x.reshape(5, 3), [secret(3, 5)], "pphlo.transpose"),
        (lambda x: lax.dynamic_update_slice(x, x[:1], (1,)), [secret(5)], "pphlo.dynamic_update_slice"),
        (lambda x: x + jnp.arange(2000.0), [secret(2000)], "pphlo.iota"),
        (lambda x: x * np.random.default_rng(0).normal(size=2000).astype(np.float32), [secret(2000)], "pphlo.constant"),
        (lambda x: x[jnp.array([2, 0])], [secret(5)], "pphlo.custom_call @spu.gather"),
        (jnp.sort, [secret(5)], "pphlo.simple_sort"),
        (lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (1,), "VALID"), [secret(5)], "pphlo.reduce_window"),
    ],
)
def test_forms_of_the_compiler(monkeypatch, fn, inputs, name):
    monkeypatch.setattr("secp_spu.runtime.program.audit_program", lambda *_, **__: None)
    assert name in {op.name for op, _ in walk(compiled(fn, *inputs))}


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("%1 = pphlo.add", "%1 = pphlo.add?", 4, "is not understood"),
        ("%1 = pphlo.add", "%1, %x = pphlo.add", 4, "is not understood"),
        ("%1 = pphlo.add", "%1 = other.add", 4, "is not understood"),
        ("%arg0, %0 :", "%arg0, %9 :", 4, "names %9, which no line before it defines"),
        ("%arg0, %0 :", "%arg0#1, %0 :", 4, "names %arg0#1, which no line before it defines"),
        ("%arg0, %0 :", "%arg0 %0 :", 4, "is not understood"),
        ("%arg0, %0 :", "%arg0, %0, %arg1 :", 4, "states other types than its operands have"),
        ("%arg0, %0 :", "%arg1, %0 :", 4, "states other types than its operands have"),
        (": (tensor<2x3x!pphlo.secret<f32>>, tens", ": (tensor<2x3xf32>, tens", 4, "states other"),
        ("%1 = pphlo.add", "%1:2 = pphlo.add", 4, "defines 2 values of 1 types"),
        ("tensor<2x3xf32>\n", "tensor<2x?xf32>\n", 3, "is not understood"),
        ("tensor<2x3xf32>\n", "tensor<2x3xcomplex<f32>>\n", 3, "is not understood"),
        ("pphlo.free %0", "pphlo.free %arg1, %0", 5, "defines 0 values of 1 types"),
        ("pphlo.free %0", "pphlo.free %7", 5, "names %7"),
        ("return %1, %2 :", "return %1 :", 7, "states other types"),
        ("%arg1: tensor", "%arg2: tensor", 2, "has arguments that are not %arg0, %arg1"),
        ("func.func @main", "func.func private @main", 2, "is not understood"),
        ("module @jit_program", "module", 1, "is not understood"),
        ("  }\n}", "  }\n  func.func @other() {\n  }\n}", 9, "is not understood"),
        ("  }\n}", "  }\n}\nmodule @more attributes {} {\n}", 10, "stands behind the program's one function"),
        ("\n  }\n}", "", 7, "the program ends early"),
    ],
)
def test_text_that_it_does_not_understand_is_refused(old, new, line, why):
    changed = PROGRAM.replace(old, new, 1)
    assert changed != PROGRAM
    with pytest.raises(UnreadableProgram, match=why) as error:
        parse_program(changed)
    assert error.value.line == line


def test_nothing_is_no_program():
    with pytest.raises(UnreadableProgram, match="the program ends early"):
        parse_program("")
