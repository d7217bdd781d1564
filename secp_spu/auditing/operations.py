"""The operations that a program may use, and why each of them opens nothing.

Whatever is not here is refused. The reasons were found by reading SPU 0.9.5's C++: each `pphlo` operation is executed
by a function of the same name in `device/pphlo/pphlo_executor.cc`, which calls `kernel/hlo`, and that `kernel/hal`.
In these folders `reveal` (and the `_s2p` below it) is called in few places:

- `kernel/hlo/casting.cc`: a conversion whose result is public. The proof refuses every public result of a secret.
- `kernel/hlo/indexing.cc`, DynamicUpdateSlice: secret start indices behind a public first one. Refused: see below.
- `kernel/hlo/control_flow.cc`, While: a secret condition, in debugging builds. Refused: a condition must be public.
- `device/pphlo/pphlo_intrinsic_executor.cc`: `spu.reveal`, which the proof is about, and `spu.dbg_print`.
- `kernel/hal/permute.cc`, `kernel/hal/group_by_agg.cc`: sorting and top-k reveal comparisons of shuffled rows and, for
  groups, how many there are. Nothing here uses them, so `sort`, `simple_sort`, `mhlo.topk` and their kin are left out.

What the protocols themselves open inside a product, a truncation or a comparison is masked by their own correlations
(`mpc/aby3`, `mpc/semi2k`); the audit takes SPU's word for that.

The same holds for SPU 0.10.0.dev20251211, whose C++ in these folders and in `core` has no differing line. Programs of
other releases are refused: the parser reads the release from the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What the proof asks of an operation, besides that it makes nothing public of something secret.

    Attributes:
        reason: why the operation opens nothing.
        public_from: its operands from this number on must be public.
        shape_only: its operands from this number on give their shape alone, which is public.
    """

    reason: str
    public_from: int | None = None
    shape_only: int | None = None


REVEAL = "pphlo.custom_call @spu.reveal"
KEEP_OPENING = "pphlo.custom_call @spu.make_cached_var"
CONSTANT = "pphlo.constant"
WHILE, IF = "pphlo.while", "pphlo.if"

NATIVE = frozenset({"pphlo.custom_call @secp_spu.waves"})
"""Public steps, which SPU does not know: every party computes them by itself (runtime/chain.py)."""

PRODUCTS = frozenset({"pphlo.multiply", "pphlo.dot", "pphlo.dot_general"})

_PUBLIC = Rule("takes nothing: every party computes the same public array")
_MOVE = Rule("moves shares to other places: local")
_LINEAR = Rule("computes on the shares themselves: local")
_PRODUCT = Rule("is a product of the protocol, whose own openings are masked by the protocol (mpc/*/arithmetic.cc)")
_COMPARE = Rule("compares in shares of bits (mpc/*/conversion.cc); the result stays shared")
_FUNCTION = Rule("is made of products, comparisons and truncations of shares (kernel/hal/fxp_*.cc)")
_SHIFT = Rule("shifts by public amounts: a truncation of shares, or a shift of shares of bits", public_from=1)

_NAMES: Mapping[Rule, str] = {
    _PUBLIC: "constant iota",
    _MOVE: "reshape transpose slice concatenate pad broadcast reverse bitcast_convert",
    _LINEAR: "add subtract negate",
    _PRODUCT: "multiply dot dot_general",
    _COMPARE: "less less_equal greater greater_equal equal not_equal and or xor not "
    "select maximum minimum clamp sign abs",
    _FUNCTION: "divide reciprocal sqrt rsqrt exponential exponential_minus_one log log_plus_one "
    "tanh logistic sine cosine floor ceil",
    _SHIFT: "shift_left shift_right_arithmetic shift_right_logical",
    Rule("combines elements by the operation that it applies, or by its region, which are read too"): "reduce",
    Rule("changes the type of shares (kernel/hlo/casting.cc), to a public one never"): "convert",
    Rule("repeats its first operand; of the second it takes the shape", shape_only=1): "broadcast_as",
    Rule("finds a secret place by comparing it with every index (kernel/hlo/indexing.cc)"): "dynamic_slice",
    Rule("writes at public places; SPU reveals secret ones (kernel/hlo/indexing.cc)", public_from=2): (
        "dynamic_update_slice"
    ),
    Rule("repeats its region as long as a public condition holds"): "while",
    Rule("runs one region where its condition is public; where it is secret, both, and selects"): "if",
}

ALLOWED: Mapping[str, Rule] = {
    **{f"pphlo.{name}": rule for rule, names in _NAMES.items() for name in names.split()},
    "pphlo.custom_call @mhlo.erf": _FUNCTION,
    "pphlo.custom_call @spu.gather": Rule("reads at public places, which SPU insists on", public_from=1),
    **dict.fromkeys(NATIVE, Rule("is computed by every party itself, from public values alone", public_from=0)),
    REVEAL: Rule("opens its operand: the proof is about these"),
    KEEP_OPENING: Rule("keeps the masked opening of a product's operand that stays where it is (SEMI2K)"),
}
