"""Programs are compiled as the runtimes compile them, so that the audit reads what SPU's compiler prints."""

import re
from functools import cache, partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir
from parties import ABY3, peek, shared
from spu.experimental import make_cached_var, reveal

from secp_spu.auditing import AuditError, CorrelationInput, Opening, audit_program
from secp_spu.protocol import (
    CosineCorrelation,
    Fixed,
    combine_factors,
    cos_sin,
    declare_correlation,
    from_ring,
    open_masked,
    to_ring,
)
from secp_spu.runtime import Spec, compile_program, program
from secp_spu.runtime.program import correlation_inputs, input_name

pytestmark = pytest.mark.smoke

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
    assert list(report.masks) == (masks[:1] if case == "one mask under another" else masks)


NOTHING_OPENED = {
    "combine": (combine_factors, [secret(3, dtype=INTEGER)] * 2, [secret(3, dtype=INTEGER)] * 2),
    "softmax": (jax.nn.softmax, secret(5, 7)),
    "unused correlation": (lambda x, _: x * x, secret(5), correlation(5)),
    "cached": (lambda x, w: x @ make_cached_var(w), secret(5, 3), secret(3, 7)),
    "erf": (lambda x: jax.nn.gelu(x, approximate=False), secret(5)),
    "loop over secrets": (lambda x: lax.fori_loop(0, 3, lambda _, a: 2 * a, x), secret(5)),
    "secret branch": (lambda x: lax.cond(x[0] > 0, lambda a: a, lambda a: -a, x), secret(5)),
    "secret index": (lambda x, i: x[i], secret(5), secret(2, dtype=INTEGER)),
    "public index": (lambda x, i: x[i], secret(5), public(2, dtype=INTEGER)),
    "public branch": (lambda x, p: lax.cond(p[0] > 0, lambda a: a, lambda a: -a, x), secret(5), public(5)),
    "written at a public place": (
        lambda x, row, i: lax.dynamic_update_slice(x, row, (0, i)),
        secret(3, 5),
        secret(3, 1),
        public(dtype=INTEGER),
    ),
    "maximum of rows": (lambda x: (x.max(1), x.argmax(1)), secret(3, 5)),
}


@pytest.mark.parametrize("case", NOTHING_OPENED)
def test_audit_accepts_a_program_that_opens_nothing(case):
    fn, *inputs = NOTHING_OPENED[case]
    assert audit(fn, *inputs).openings == ()


def test_audit_names_the_line_and_the_mask_of_every_opening():
    fn, *inputs = HONEST["two layers"]
    compiled = compile_program("tested", fn, tuple(inputs))
    lines = compiled.code.decode().splitlines()
    for opening, (argument, mask) in zip(compiled.audit.openings, [(2, "2.mask"), (5, "3.mask")], strict=True):
        assert "spu.reveal" in lines[opening.line - 1]
        assert opening == Opening(opening.line, mask, argument, 5 * 3)
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
        assert (found := re.fullmatch(rf"planted, line (\d+): .*{reason}.*?: (.*)", fault)), fault
        assert found[2] in code[0].splitlines()[int(found[1]) - 1]
    assert "spu.reveal" in code[0]


def test_audit_names_all_faults_at_once():
    with pytest.raises(AuditError) as error:
        audit(mask_used_twice, secret(5), secret(5), correlation(5), name="planted")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("again", [reveal, lambda d: reveal(-d)])
def test_audit_accepts_that_an_opening_is_shown_twice(again):
    """Harmless: the same number, or its negative, tells nothing more. Each is reported; each costs a send."""
    report = audit(lambda x, c: (lambda d: (reveal(d), again(d)))(to_ring(x) - c.mask), secret(5), correlation(5))
    assert report.masks == ("1.mask", "1.mask")


# Other ways out


def countdown(total, step):
    """How often the loop runs depends on a secret, and so does the public counter."""
    return lax.while_loop(lambda s: s[0] > s[1], lambda s: (s[0] - s[1], s[1], s[2] + 1), (total, step, 0))


def test_audit_rejects_a_loop_that_runs_while_a_secret_holds():
    with pytest.raises(AuditError, match=r"planted, line \d+: may make something public of something secret: how"):
        audit(countdown, secret(), secret(), name="planted")


def call_by_name(target, x):
    """A primitive that SPU is asked for by name."""
    primitive = jax.extend.core.Primitive(target.replace(".", "_"))
    primitive.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))

    def lower(_context, x):
        side_effect = mlir.ir.BoolAttr.get(True)
        call = stablehlo.CustomCallOp([x.type], [x], mlir.ir.StringAttr.get(target), has_side_effect=side_effect)
        return call.results

    mlir.register_lowering(primitive, lower)
    return primitive.bind(x)


def test_audit_rejects_what_spu_is_asked_for_by_an_unknown_name():
    """`spu.dbg_print` writes a secret into the log of every party, and its result is secret all the same."""
    for target in ("spu.dbg_print", "spu.prefer_a", "spu.anything"):
        with pytest.raises(AuditError, match=rf"@{target} is not among the operations that the audit knows: %0 = "):
            audit(partial(call_by_name, target), secret(5))


def test_audit_rejects_a_call_with_a_secret_operand_and_a_public_result():
    code = compiled("sum").replace("@spu.reveal", "@mhlo.erf")
    with pytest.raises(AuditError, match="may make something public of something secret"):
        audit_text(code, HONEST["sum"])


def into_the_cache(cache, row, i):
    return lax.dynamic_update_slice(cache, row, (0, 0, i, 0))


def into_the_cache_again_and_again(cache, row, i):
    return lax.fori_loop(0, 2, lambda n, c: lax.dynamic_update_slice(c, row, (0, 0, i + n, 0)), cache)


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (into_the_cache, [(1, 2, 5, 3), (1, 2, 1, 3)]),
        (into_the_cache_again_and_again, [(1, 2, 5, 3), (1, 2, 1, 3)]),
        (lambda t, row, i: lax.dynamic_update_index_in_dim(t, row, i, 1), [(3, 5), (3, 1)]),
        (lambda t, row, i: lax.dynamic_update_index_in_dim(t, row, i, 0), [(3, 5), (1, 5)]),
    ],
)
def test_audit_rejects_writing_at_a_secret_place(fn, shapes):
    """SPU 0.9.5 reveals the index ("Reveal 1th start index of DynamicUpdateSlice")."""
    with pytest.raises(AuditError, match=r"line \d+: pphlo.dynamic_update_slice has a secret where SPU may reveal it"):
        audit(fn, *(secret(*shape) for shape in shapes), secret(dtype=INTEGER))


@pytest.mark.parametrize(
    ("fn", "operation"),
    [
        (jnp.sort, "pphlo.simple_sort"),
        (lambda x: lax.top_k(x, 2), "pphlo.custom_call @mhlo.topk"),
        (jnp.isfinite, "pphlo.custom_call @mhlo.is_finite"),
        (lambda x: jnp.power(x, x), "pphlo.power"),
        (jnp.cumsum, "pphlo.reduce_window"),
    ],
)
def test_audit_rejects_operations_that_it_does_not_know(fn, operation):
    with pytest.raises(AuditError, match=rf"line \d+: {operation} is not among the operations that the audit knows: %"):
        audit(fn, secret(5))


def test_audit_rejects_a_reduction_by_an_operation_that_it_does_not_know():
    code = compile_program("sum", lambda x: x.sum(), (secret(5),)).code.decode()
    assert "applies pphlo.add" in code
    with pytest.raises(AuditError, match=r"line \d+: pphlo.remainder is not among the operations"):
        audit_program(code.replace("applies pphlo.add", "applies pphlo.remainder"), ["x"])


def test_a_secret_with_the_name_of_a_mask_masks_nothing():
    inputs = {"v": secret(5), "c": correlation(5), "c.mask": secret(5, dtype=INTEGER)}
    with pytest.raises(AuditError, match=UNMASKED):
        audit(lambda d: reveal(to_ring(d["v"]) - d["c.mask"]), inputs)


def test_correlations_with_one_name_are_two():
    """`a.b` twice: the factors of the one must not pass for those of the other, whose mask is opened before."""
    inputs = {"a": {"b": correlation(5)}, "a.b": correlation(5), "v": secret(5)}

    def program(d):
        first = open_masked(to_ring(d["v"]), d["a"]["b"].mask)
        return first, open_masked(to_ring(d["v"]) * d["a.b"].cos[0], d["a.b"].mask)

    with pytest.raises(AuditError, match=r"the opened value depends on 0\.a\.b\.cos, whose mask is not opened before"):
        audit(program, inputs)


BARE = r"line \d+: result \d is made of a mask or factor of 1 and of nothing that its opening gave: return"


@pytest.mark.parametrize(
    "returned",
    [
        lambda c: c.mask,
        lambda c: (c.cos, c.sin),
        lambda c: c.cos[0],
        lambda c: -c.sin[0].reshape(5, 1),
        lambda c: from_ring(c.cos),
        lambda c: jnp.concatenate([c.cos[0], c.cos[0]]),
        lambda c: c.cos * 2,
        lambda c: c.cos[0] + c.sin[0],
        lambda c: jnp.where(c.cos > 0, c.cos, 0),
        lambda c: c.cos[0] * c.cos[0],
        lambda c: c.cos.sum(),
    ],
)
@pytest.mark.parametrize("opens", [True, False])
def test_audit_rejects_results_that_give_the_mask_away(returned, opens):
    """delta is known to all, so cos t and sin t tell whoever they are opened to what x is."""

    def program(x, c):
        return (open_masked(to_ring(x), c.mask) if opens else x), returned(c)

    with pytest.raises(AuditError, match=f"{BARE}|{TWICE}"):
        audit(program, secret(5), correlation(5))


def test_audit_accepts_results_of_products_with_what_the_opening_gave():
    audit(lambda x, c: open_masked(to_ring(x), c.mask) * c.cos[0], secret(5), correlation(5))


def open_one(x, c):
    return open_masked(to_ring(x), c.mask)


def test_audit_rejects_a_public_mask():
    factor = secret(1, 5, dtype=INTEGER)
    with pytest.raises(AuditError, match=rf"planted, argument 1: is the mask of 1, .*\n.*{UNMASKED}"):
        audit(open_one, secret(5), CosineCorrelation(public(5, dtype=INTEGER), factor, factor), name="planted")


def test_audit_rejects_a_public_factor():
    mask, factor = secret(5, dtype=INTEGER), public(1, 5, dtype=INTEGER)
    with pytest.raises(AuditError, match="planted, argument 3: is a factor of 1, but is no secret ring integer"):
        audit(
            lambda x, c: open_masked(to_ring(x), c.mask),
            secret(5),
            CosineCorrelation(mask, mask, factor),
            name="planted",
        )


def test_openings_are_kept_of_arguments_alone():
    """SPU keeps them by the address of the operand, which only an argument has for good."""
    assert audit(lambda x, w: x @ make_cached_var(w), secret(5, 3), secret(3, 7)).kept == (1,)
    with pytest.raises(AuditError, match="keeps the opening of a value that is no argument"):
        audit(lambda x, w: x @ make_cached_var(2 * w), secret(5, 3), secret(3, 7))
    with pytest.raises(AuditError, match="keeps the opening of a mask or factor"):
        audit(lambda x, c: to_ring(x) @ make_cached_var(c.mask), secret(5), correlation(5))


# Mutations of the compiled text


@cache
def compiled(name):
    fn, *inputs = HONEST[name]
    return compile_program("tested", fn, tuple(inputs)).code.decode()


def audit_text(code, case):
    """The audit of a changed text, with the names that `compile_program` gives."""
    inputs = tuple(case[1:])
    names = [input_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    return audit_program(code, names, correlations=correlation_inputs(inputs))


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
    assert tried >= 25


def test_audit_rejects_two_openings_in_the_wrong_order():
    """The second layer's opening, moved before the first: its value depends on factors that are still to be opened."""
    case, lines = HONEST["two layers"], compiled("two layers").splitlines()
    first, second = (n for n, line in enumerate(lines) if "spu.reveal" in line)
    values = [re.search(r"reveal\((%\w+)\)", lines[n])[1] for n in (first, second)]
    lines[first] = lines[first].replace(values[0], "%arg5")  # else a value is opened that is defined later
    with pytest.raises(AuditError, match=NO_DIFFERENCE):
        audit_text("\n".join(lines), case)


def factors_of_the_second(x, w, first, second):
    """The first opening's value depends on the second correlation's factors."""
    turned = to_ring(x) @ to_ring(w) * second.cos[0]
    return open_masked(turned, first.mask), open_masked(to_ring(x), second.mask)


def test_audit_rejects_an_opening_before_that_of_a_factor_in_its_value():
    _, *inputs = HONEST["two layers"]
    with pytest.raises(AuditError, match=OWN_FACTORS):
        audit(factors_of_the_second, *inputs)


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


def test_a_mask_is_known_by_its_number_alone():
    """The same text, but the input is not a correlation's mask, whatever its name."""
    code = compiled("sum")
    names = ["0", "1.mask", "1.cos", "1.sin"]
    with pytest.raises(AuditError, match=UNMASKED):
        audit_program(code, names)
    with pytest.raises(AuditError, match=UNMASKED):
        audit_program(code, names, correlations=[CorrelationInput("1", 2, (1, 3))])
    assert audit_program(code, ["a", "b", "c", "d"], correlations=[CorrelationInput("c", 1, (2, 3))]).masks == ("b",)


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
