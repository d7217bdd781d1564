"""Programs are compiled as the runtimes compile them, so that the audit reads what SPU's compiler prints."""

import re
from functools import cache, partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir
from jaxlib.hlo_helpers import custom_call
from parties import ABY3, peek, shared
from spu.experimental import make_cached_var, reveal

from secp_spu.protocol import (
    AuditError,
    CosineCorrelation,
    Fixed,
    audit_program,
    combine_factors,
    cos_sin,
    declare_correlation,
    from_ring,
    open_masked,
    to_ring,
)
from secp_spu.runtime import Spec, compile_program, program
from secp_spu.runtime.program import input_name

FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int32)


def secret(*shape, dtype=FLOAT):
    return Spec(shape, dtype, secret=True)


def public(*shape, dtype=FLOAT):
    return Spec(shape, dtype, secret=False)


def correlation(*shape, **options):
    declared = declare_correlation(shape, **options)
    return jax.tree.map(lambda leaf: secret(*leaf.shape, dtype=INTEGER), declared)


def audit(fn, *inputs, name="tested"):
    return compile_program(name, fn, inputs).audit


# What it accepts


def two_layers(x, w, first, second):
    """The second opening depends on factors of the first correlation, which is opened by then."""
    return cos_sin(cos_sin(x, w, first)[0], w, second)  # the first cosine has 27 fraction bits


def negated_and_moved(x, c):
    return reveal(-(to_ring(x) + (-c.mask).T).reshape(-1))


HONEST = {
    "cos_sin": (cos_sin, secret(5, 3), public(3, 7), correlation(5, 7)),
    "two layers": (two_layers, secret(5, 3), public(3, 3), correlation(5, 3), correlation(5, 3, turn_bits=45)),
    "sum": (lambda x, c: reveal(to_ring(x) + c.mask), secret(5), correlation(5)),
    "negated and moved": (negated_and_moved, secret(5, 3), correlation(3, 5)),
    "a public value": (lambda x, c: reveal(x - c.mask), public(5, dtype=INTEGER), correlation(5)),
    "one mask under another": (lambda c, d: reveal(c.mask - d.mask), correlation(5), correlation(5)),
    "vmap": (lambda x, c: jax.vmap(open_masked)(to_ring(x), c.mask), secret(5, 3), correlation(5, 3)),
}


@pytest.mark.parametrize("case", HONEST)
def test_audit_accepts_a_masked_opening(case):
    fn, *inputs = HONEST[case]
    report = audit(fn, *inputs, name=case)
    assert report.program == case
    masks = [f"{i}.mask" for i, spec in enumerate(inputs) if isinstance(spec, CosineCorrelation)]
    assert [mask for _, mask in report.openings] == (masks[:1] if case == "one mask under another" else masks)


NOTHING_OPENED = {
    "combine": (combine_factors, [secret(3, dtype=INTEGER)] * 2, [secret(3, dtype=INTEGER)] * 2),
    "softmax": (jax.nn.softmax, secret(5, 7)),
    "unused correlation": (lambda x, _: x * x, secret(5), correlation(5)),
    "cached": (lambda x, w: x @ make_cached_var(w), secret(5, 3), secret(3, 7)),
    "erf and top k": (lambda x: (jax.nn.gelu(x, approximate=False), lax.top_k(x, 2)), secret(5)),
    "loop over secrets": (lambda x: lax.fori_loop(0, 3, lambda _, a: 2 * a, x), secret(5)),
    "secret branch": (lambda x: lax.cond(x[0] > 0, lambda a: a, lambda a: -a, x), secret(5)),
    "secret index": (lambda x, i: x[i], secret(5), secret(2, dtype=INTEGER)),
    "public index": (lambda x, i: x[i], secret(5), public(2, dtype=INTEGER)),
}


@pytest.mark.parametrize("case", NOTHING_OPENED)
def test_audit_accepts_a_program_that_opens_nothing(case):
    fn, *inputs = NOTHING_OPENED[case]
    assert audit(fn, *inputs).openings == ()


def test_audit_names_the_line_and_the_mask_of_every_opening():
    fn, *inputs = HONEST["two layers"]
    compiled = compile_program("tested", fn, tuple(inputs))
    lines = compiled.code.decode().splitlines()
    for (number, mask), expected in zip(compiled.audit.openings, ("2.mask", "3.mask"), strict=True):
        assert "spu.reveal" in lines[number - 1]
        assert mask == expected
    assert sum("spu.reveal" in line for line in lines) == 2


# What it rejects


def reveal_in_loop(x, c):
    return lax.fori_loop(0, 3, lambda _, a: a + from_ring(reveal(to_ring(x) - c.mask)), x)


def reveal_in_branch(x, flag, c):
    return lax.cond(flag > 0, lambda: open_masked(to_ring(x), c.mask), lambda: jnp.zeros(5, jnp.int32))


def reveal_in_scan(x, c):
    return lax.scan(lambda carry, row: (carry, open_masked(to_ring(row[0]), row[1])), 0, (x, c.mask))[1]


def mask_of_another_input(x, not_a_mask, c):
    return open_masked(to_ring(x), not_a_mask) + c.mask


def mask_used_twice(x, y, c):
    return open_masked(to_ring(x), c.mask), open_masked(to_ring(y), c.mask)


def mask_copied(x, y, c):
    return open_masked(to_ring(x), c.mask), open_masked(to_ring(y), jnp.copy(c.mask) + 0)


def mask_moved_and_used_twice(x, y, c):
    moved = from_ring(-c.mask.reshape(5, 1))
    return open_masked(to_ring(x), c.mask), reveal(to_ring(y.reshape(5, 1) + moved))


def negated_and_used_twice(x, y, c):
    negative = -c.mask
    return reveal(to_ring(x) + negative), reveal(to_ring(y) - -negative)


def factors_of_a_later_opening(x, c, d):
    return open_masked(to_ring(x) * c.cos[0], d.mask), open_masked(to_ring(x), c.mask)


def own_factors_after_another_opening(x, c, d):
    return open_masked(to_ring(x), c.mask), open_masked(to_ring(x) * d.cos[0] * c.cos[0], d.mask)


def factors_by_way_of_a_loop(x, c):
    total = lax.fori_loop(0, 3, lambda _, a: a + c.sin[0] * to_ring(x), to_ring(x))
    return open_masked(total, c.mask)


UNMASKED = "what is opened is not masked: neither operand is the mask of a correlation"
NO_DIFFERENCE = "what is opened is not a difference value - mask"
NO_INTEGER = "what is opened is not a secret ring integer"
REGION = "the opening is inside a region, so it may run more than once"
TWICE = "is used 2 times, not once"
OWN_FACTORS = r"the opened value depends on \d\.(?:cos|sin), whose mask is not opened before it"

FAULTY = {
    "unmasked": (NO_DIFFERENCE, lambda x: reveal(to_ring(x)), secret(5)),
    "unmasked float": (NO_INTEGER, reveal, secret(5)),
    "a float difference": (NO_INTEGER, lambda x, c: reveal(x - from_ring(c.mask)), secret(5), correlation(5)),
    "difference of two secrets": (UNMASKED, lambda x, y: reveal(to_ring(x) - to_ring(y)), secret(5), secret(5)),
    "another input": (UNMASKED, mask_of_another_input, secret(5), secret(5, dtype=INTEGER), correlation(5)),
    "a factor as a mask": (UNMASKED, lambda x, c: reveal(to_ring(x) - c.cos[0]), secret(5), correlation(5)),
    "a public number": (UNMASKED, lambda x, y: reveal(to_ring(x) - y), secret(5), public(5, dtype=INTEGER)),
    "the mask alone": (NO_DIFFERENCE, lambda c: reveal(c.mask), correlation(5)),
    "used twice": (TWICE, mask_used_twice, secret(5), secret(5), correlation(5)),
    "a copy": (TWICE, mask_copied, secret(5), secret(5), correlation(5)),
    "moved and used twice": (TWICE, mask_moved_and_used_twice, secret(5), secret(5), correlation(5)),
    "negated and used twice": (TWICE, negated_and_used_twice, secret(5), secret(5), correlation(5)),
    "returned too": (TWICE, lambda x, c: (reveal(to_ring(x) - c.mask), c.mask), secret(5), correlation(5)),
    "and in the value": (TWICE, lambda x, c: reveal(to_ring(x) * c.mask - c.mask), secret(5), correlation(5)),
    "broadcast": (UNMASKED, lambda x, c: reveal(to_ring(x) - c.mask), secret(3, 5), correlation(5)),
    "broadcast by vmap": (
        UNMASKED,
        lambda x, c: jax.vmap(lambda row: open_masked(to_ring(row), c.mask))(x),
        secret(5, 3),
        correlation(3),
    ),
    "sliced": (UNMASKED, lambda x, c: open_masked(to_ring(x), c.mask[:3]), secret(3), correlation(5)),
    "concatenated": (
        UNMASKED,
        lambda x, c, d: open_masked(to_ring(x), jnp.concatenate([c.mask, d.mask])),
        secret(8),
        correlation(5),
        correlation(3),
    ),
    "padded": (UNMASKED, lambda x, c: open_masked(to_ring(x), jnp.pad(c.mask, (0, 2))), secret(7), correlation(5)),
    "selected": (
        UNMASKED,
        lambda x, c: open_masked(to_ring(x), jnp.where(x > 0, c.mask, 0)),
        secret(5),
        correlation(5),
    ),
    "low bits": (UNMASKED, lambda x, c: open_masked(to_ring(x), c.mask & 0xFFFF), secret(5), correlation(5)),
    "doubled": (UNMASKED, lambda x, c: open_masked(to_ring(x), 2 * c.mask), secret(5), correlation(5)),
    "shifted": (UNMASKED, lambda x, c: open_masked(to_ring(x), c.mask << 7), secret(5), correlation(5)),
    "truncated": (
        UNMASKED,
        lambda x, c: open_masked(to_ring(x), Fixed(c.mask, 18).to(15).ring),
        secret(5),
        correlation(5),
    ),
    "as a number": (UNMASKED, lambda x, c: reveal(to_ring(x - c.mask.astype(FLOAT))), secret(5), correlation(5)),
    "difference selected": (
        NO_DIFFERENCE,
        lambda x, c: reveal(jnp.where(x > 0, to_ring(x) - c.mask, 0)),
        secret(5),
        correlation(5),
    ),
    "in a loop": (REGION, reveal_in_loop, secret(5), correlation(5)),
    "in a scan": (REGION, reveal_in_scan, secret(5, 3), correlation(5, 3)),
    "in a branch": (REGION, reveal_in_branch, secret(5), public(), correlation(5)),
    "own factors": (
        OWN_FACTORS,
        lambda x, c: open_masked(to_ring(x) * c.cos[0], c.mask),
        secret(5),
        correlation(5),
    ),
    "own third harmonic": (
        OWN_FACTORS,
        lambda x, c: open_masked(to_ring(x) * c.sin[2], c.mask),
        secret(5),
        correlation(5, harmonics=3),
    ),
    "factors of a later opening": (OWN_FACTORS, factors_of_a_later_opening, secret(5), correlation(5), correlation(5)),
    "own factors after another opening": (
        OWN_FACTORS,
        own_factors_after_another_opening,
        secret(5),
        correlation(5),
        correlation(5),
    ),
    "factors by way of a loop": (OWN_FACTORS, factors_by_way_of_a_loop, secret(5), correlation(5)),
    "a public mask": (
        UNMASKED,
        lambda x, c: open_masked(to_ring(x), c.mask),
        secret(5),
        CosineCorrelation(public(5, dtype=INTEGER), secret(1, 5, dtype=INTEGER), secret(1, 5, dtype=INTEGER)),
    ),
}


@pytest.mark.parametrize("case", FAULTY)
def test_audit_rejects_a_fault_and_names_its_line(monkeypatch, case):
    reason, fn, *inputs = FAULTY[case]
    code = []

    def keep_and_audit(text, *args, **kwargs):
        code.append(text)
        return audit_program(text, *args, **kwargs)

    monkeypatch.setattr(program, "audit_program", keep_and_audit)
    with pytest.raises(AuditError) as error:
        audit(fn, *inputs, name="planted")
    for fault in str(error.value).splitlines():
        assert (found := re.fullmatch(rf"planted, line (\d+): .*{reason}: (.*)", fault)), fault
        assert found[2] in code[0].splitlines()[int(found[1]) - 1] or reason == REGION
    assert "spu.reveal" in code[0]


def test_audit_names_all_faults_at_once():
    with pytest.raises(AuditError) as error:
        audit(mask_used_twice, secret(5), secret(5), correlation(5), name="planted")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("again", [reveal, lambda d: reveal(-d)])
def test_audit_accepts_that_an_opening_is_shown_twice(again):
    """Harmless: the same number, or its negative, tells nothing more. Each is reported; each costs a send."""
    report = audit(lambda x, c: (lambda d: (reveal(d), again(d)))(to_ring(x) - c.mask), secret(5), correlation(5))
    assert [mask for _, mask in report.openings] == ["1.mask"] * 2


# Other ways out


def countdown(total, step):
    """How often the loop runs depends on a secret, and so does the public counter."""
    return lax.while_loop(lambda s: s[0] > s[1], lambda s: (s[0] - s[1], s[1], s[2] + 1), (total, step, 0))


def test_audit_rejects_a_loop_that_runs_while_a_secret_holds():
    with pytest.raises(AuditError, match=r"planted, line \d+: may make something public of something secret: pphlo\.r"):
        audit(countdown, secret(), secret(), name="planted")


def call_by_name(target, x):
    """A primitive that SPU is asked for by name."""
    primitive = jax.extend.core.Primitive(target.replace(".", "_"))
    primitive.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))

    def lower(_context, x):
        kind = mlir.ir.RankedTensorType(x.type)
        return custom_call(target, result_types=[kind], operands=[x], has_side_effect=True).results

    mlir.register_lowering(primitive, lower)
    return primitive.bind(x)


def test_audit_rejects_what_spu_is_asked_for_by_an_unknown_name():
    """`spu.dbg_print` writes a secret into the log of every party, and its result is secret all the same."""
    with pytest.raises(AuditError, match=r"may make something public of something secret: .*@spu\.dbg_print"):
        audit(partial(call_by_name, "spu.dbg_print"), secret(5))
    assert audit(partial(call_by_name, "spu.prefer_a"), secret(5)).openings == ()


def test_audit_rejects_a_call_with_a_secret_operand_and_a_public_result():
    code = compiled("sum").replace("@spu.reveal", "@spu.gather")
    with pytest.raises(AuditError, match="may make something public of something secret"):
        audit_text(code, HONEST["sum"])


# Mutations of the compiled text


@cache
def compiled(name):
    fn, *inputs = HONEST[name]
    return compile_program("tested", fn, tuple(inputs)).code.decode()


def audit_text(code, case):
    """The audit of a changed text, with the names that `compile_program` gives."""
    inputs = tuple(case[1:])
    names = [input_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    correlations = [i for i, spec in enumerate(inputs) if isinstance(spec, CosineCorrelation)]
    masks = {f"{i}.mask": f"{i}" for i in correlations}
    factors = {f"{i}.{part}": f"{i}" for i in correlations for part in ("cos", "sin")}
    return audit_program(code, names, masks=masks, factors=factors)


RESULT = re.compile(r"(%\w+) = .* -> (tensor<\S*>)$|(%\w+) = [^:]*: (tensor<\S*>)$")


def defined(lines):
    """Value -> type, of what the lines define, the function's arguments included."""
    kinds = dict(re.findall(r"(%arg\d+): (tensor<[^,)]*>)", lines[1]))
    for line in lines[2:]:
        if found := RESULT.search(line):
            kinds[found[1] or found[3]] = found[2] or found[4]
    return kinds


def mask_chain(lines, reveal_line):
    """The lines (number, operand) by which the mask comes into an opening, and those after it."""
    chain, todo = [], [(reveal_line, re.search(r"reveal\((%\w+)\)", lines[reveal_line])[1])]
    while todo:
        number, value = todo.pop()
        chain.append((number, value))
        maker = next((n for n, line in enumerate(lines) if line.strip().startswith(f"{value} = ")), None)
        if maker is not None:
            operands = re.findall(r"%\w+", lines[maker].split(" = ")[1])
            # The mask is the last operand of `value - mask`, as the compiler writes it: value + (-mask).
            todo.append((maker, operands[-1]))
    return chain


def replace_operand(lines, number, old, new):
    head, _, tail = lines[number].partition(" = ")
    return [*lines[:number], f"{head} = {re.sub(f'{old}(?![0-9])', new, tail)}", *lines[number + 1 :]]


@pytest.mark.parametrize("name", ["cos_sin", "two layers"])
def test_audit_rejects_every_exchange_on_the_way_of_a_mask(name):
    """Every operand between mask and opening, replaced by every earlier value of its type in turn.

    Except for an earlier opening in the place of a later one, which may be shown twice.
    """
    case = HONEST[name]
    lines = compiled(name).splitlines()
    audit_text("\n".join(lines), case)
    tried, opened = 0, set()
    for reveal_line in [n for n, line in enumerate(lines) if "spu.reveal" in line]:
        chain = mask_chain(lines, reveal_line)
        assert chain[-1][1] in ("%arg2", "%arg5")
        for number, operand in chain:
            earlier = defined(lines[:number])
            for other, kind in earlier.items():
                if other not in (operand, *opened) and kind == earlier[operand]:
                    tried += 1
                    with pytest.raises(AuditError):
                        audit_text("\n".join(replace_operand(lines, number, operand, other)), case)
        opened.add(chain[0][1])
    assert tried >= 5


@pytest.mark.parametrize("name", ["cos_sin", "two layers"])
def test_audit_rejects_every_further_use_of_a_mask(name):
    """Every operand anywhere else, replaced by the mask or by its negative in turn; types are SPU's to check."""
    case = HONEST[name]
    lines = compiled(name).splitlines()
    chains = [mask_chain(lines, n) for n, line in enumerate(lines) if "spu.reveal" in line]
    tried = 0
    for chain in chains:
        # The opened difference itself is public soon: it may be used again.
        values = [value for _, value in chain[2:]]
        for number, line in enumerate(lines):
            if " = " not in line or "pphlo.free" in line or line.startswith("module"):
                continue
            earlier = defined(lines[:number])
            for operand in set(re.findall(r"%\w+", line.partition(" = ")[2])):
                for value in values:
                    if value != operand and value in earlier:
                        tried += 1
                        with pytest.raises(AuditError):
                            audit_text("\n".join(replace_operand(lines, number, operand, value)), case)
    assert tried >= 50


def test_audit_rejects_two_openings_in_the_wrong_order():
    """The second layer's opening, moved before the first: its value depends on factors that are still to be opened."""
    case, lines = HONEST["two layers"], compiled("two layers").splitlines()
    first, second = (n for n, line in enumerate(lines) if "spu.reveal" in line)
    lines[first], lines[second] = lines[second], lines[first]
    with pytest.raises(AuditError, match=OWN_FACTORS):
        audit_text("\n".join(lines), case)


@pytest.mark.parametrize(
    "change",
    [
        lambda code: code.replace("pphlo.add", "pphlo.subtracted"),
        lambda code: code.replace("pphlo.negate", "pphlo.abs"),
        lambda code: code.replace("pphlo.negate", "pphlo.broadcast"),
        lambda code: code.replace("!pphlo.secret<i32>", "!pphlo.secret<i16>"),
        lambda code: code.replace("!pphlo.secret<i32>", "!pphlo.secret<i64>"),
        lambda code: code.replace("func.func @main", "func.func @main() {}\n  func.func @main"),
        lambda code: re.sub(r"(%\w+) = (pphlo\.dot)", r"%a, \1 = \2", code),
        lambda code: re.sub(r"    (%\w+) = pphlo\.dot .*\n", "", code),
    ],
)
def test_audit_rejects_what_it_does_not_understand(change):
    case, code = HONEST["cos_sin"], compiled("cos_sin")
    assert change(code) != code
    with pytest.raises(AuditError):
        audit_text(change(code), case)


def test_audit_takes_masks_by_name_alone():
    """The same text, but the input is not a correlation's mask."""
    code = compiled("sum")
    names = ["0", "1.mask", "1.cos", "1.sin"]
    with pytest.raises(AuditError, match=UNMASKED):
        audit_program(code, names, masks={}, factors={})
    assert audit_program(code, names, masks={"1.mask": "1"}, factors={}).openings


# The runtime


def leak(x, c):
    return open_masked(to_ring(x), c.mask), c.mask


def test_a_program_that_fails_the_audit_does_not_run(runtimes):
    """Nothing is sent, nothing is spent; the same correlation then serves an honest program."""
    runtime = runtimes(ABY3)
    x = shared(runtime, np.ones(5, np.float32))
    correlation = runtime.correlations(declare_correlation((5,)))
    before, programs = runtime.ledger.state(), len(runtime.programs)
    for _ in range(2):
        with pytest.raises(AuditError, match="leak, line"):
            runtime.run("leak", leak, x, correlation)
    assert runtime.ledger.state() == before
    assert len(runtime.programs) == programs
    t = peek(runtime, correlation.tree.mask)
    delta = runtime.run("open", lambda x, c: open_masked(to_ring(x), c.mask), x, correlation)
    np.testing.assert_array_equal(peek(runtime, delta), np.uint64(2**18) - t)
