"""The interface of a runtime: owners' values in, secret arrays kept by the parties, results out to one owner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import jax
import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from secp_spu.protocol import CosineCorrelation, SpentCorrelationError, combine_factors, encode
from secp_spu.runtime.cgroup import available_bytes
from secp_spu.runtime.handles import Actor, Correlations, Owned, Stored, Value, is_declared, names_of, spec_of
from secp_spu.runtime.heap import give_back
from secp_spu.runtime.jitted import Jitted
from secp_spu.runtime.journal import Journal
from secp_spu.runtime.ledger import Ledger
from secp_spu.runtime.program import Program, Spec, compile_program
from secp_spu.trees import Tree

_NUMBERS = count()
"""Numbers the runtimes of this process: each runtime names its handles v0, v1 and so on."""


class Runtime(ABC):
    """Where secure programs run. A pytree of `Stored` handles stands for values that the compute parties keep.

    Attributes:
        ledger: what it cost so far.
        secure: programs compute on shares, so that secrets in them may be `Fixed`.
        journal: this party's log of what it is asked for; silent unless it is a party of a cluster that keeps one.
    """

    secure = True

    def __init__(self, protocol: str, parties: int):
        self.protocol, self.parties = protocol, parties
        self.ledger, self.journal = Ledger(parties), Journal()
        self._programs: dict[tuple[object, ...], Program] = {}
        self._number = next(_NUMBERS)
        self._names = (f"v{i}" for i in count())
        self._fresh: set[tuple[str, ...]] = set()
        self._pinned: set[str] = set()
        self._freed: set[str] = set()

    @abstractmethod
    def actor(self, party: str, make: Callable[..., object], *args: object, **kwargs: object) -> Actor:
        """An object that lives at `party`: its methods take plain or Owned arguments and return Owned values."""

    @abstractmethod
    def share(self, values: Owned) -> Tree:
        """Secret-share an owner's pytree of float32 or int32 arrays among the compute parties.

        The owner draws fresh uniform components; each party receives those that it holds.
        """

    @abstractmethod
    def publish(self, values: Tree) -> Tree:
        """Give a pytree of arrays that everybody may know to the compute parties."""

    @abstractmethod
    def open_to(self, party: str, values: Tree, *, whole: bool = False) -> Owned:
        """Reconstruct secret arrays at one owner only. Each compute party sends one component, 8 bytes an element.

        Args:
            party: the owner.
            values: handles.
            whole: as ring elements, uint64, which is what masked values are.
        Raises: SpentCorrelationError for a part of a correlation that is not spent.
        """

    @abstractmethod
    def disclose(self, value: Owned) -> Value:
        """An owner's value that all may know, such as how many texts there are, for the driver to act on."""

    @abstractmethod
    def at_home(self, value: Owned) -> Value:
        """An owner's value if this process is its owner's, or all parties' in one; None in another party's process."""

    def gather(self, value: object) -> dict[str, object]:
        """What each party's own driver passes as `value`, by party; all may know it. In a cluster only."""
        raise NotImplementedError(f"one process drives all parties, so there is one {value!r}")

    def settle(self) -> None:  # noqa: B027 - most runtimes have nothing to wait for
        """Wait for everything asked so far, and bring the ledger up to date.

        Raises: RuntimeFailure.
        """

    def free_memory_bytes(self) -> int:
        """What the compute party that has the least may still use of its machine's memory, which others may share."""
        give_back()
        return available_bytes() // self.parties

    @abstractmethod
    def correlations(self, declared: Tree) -> Correlations:
        """Make what a program declared to spend: a pytree with a CosineCorrelation of shapes at every leaf."""

    @abstractmethod
    def free(self, values: Tree) -> None:
        """Delete arrays at all parties."""

    @abstractmethod
    def close(self) -> None:
        """End the parties; what they keep is gone."""

    def abandon(self) -> None:
        """End after an error in the driver: as `close`, but nothing is waited for that may never come."""
        self.close()

    @abstractmethod
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        """Run a compiled program on stored arrays."""

    def run(self, name: str, fn: Callable[..., Tree], *args: Tree) -> Tree:
        """Run a JAX function under MPC; it is compiled and audited once for each shape of its inputs.

        Args:
            name: of the program, in the ledger and in messages.
            fn: a JAX function; keep it alive, programs are cached by its identity.
            args: pytrees of Stored handles, or Correlations, which this run spends and deletes. A correlation comes in
                by no other way: a copy of its mask, added to a secret, would cancel in the opening.
        Returns: the results, as a pytree of Stored handles.
        Raises: AuditError, before anything runs, if an opening is not proven masked; SpentCorrelationError; ValueError
            for an array that was freed, or a handle of another runtime; TypeError for what is no handle;
            RuntimeFailure, also if SPU opened anything else than was proven.
        """
        trees = tuple(arg.tree if isinstance(arg, Correlations) else arg for arg in args)
        self.require_own(trees)
        self._refuse_freed(jax.tree.leaves(trees, is_leaf=is_declared))
        program = self.compiled(name, fn, jax.tree.map(lambda stored: stored.spec, trees))
        self._require_pinned(program, jax.tree.leaves(trees))
        spent = [arg.tree for arg in args if isinstance(arg, Correlations)]
        self._spend(jax.tree.leaves(spent, is_leaf=is_declared), trees)
        outputs = jax.tree.map(self._handle, program.outputs)
        self._execute(program, jax.tree.leaves(trees), jax.tree.leaves(outputs))
        self.free(spent)
        return outputs

    def jit(self, fn: Callable[..., Tree], *, name: str | None = None) -> Jitted:
        """A JAX function as a secure one, which makes and spends its own correlations.

        It is called with what `fn` is called with: pytrees whose leaves are handles, or plain arrays, which are
        published for the call. A public array that `fn` closes over becomes a part of the program. The result is a
        pytree of handles, `Fixed` numbers as plain ones.

        `fn` is traced twice, compiled and audited once for each shape of its arguments. Each call makes fresh
        correlations, which the ledger books as offline.

            >>> import numpy as np
            >>> from secp_spu import LocalRuntime, Owned
            >>> from secp_spu.protocol import cos_sin
            >>> with LocalRuntime() as runtime:
            ...     x = runtime.share(Owned("alice", np.float32([[0.25, 1.0]])))
            ...     secure = runtime.jit(lambda x: cos_sin(x, np.float32([[1.0], [0.125]])))
            ...     cos, sin = runtime.open_to("alice", secure(x)).value
            >>> bool(abs(cos + 0.5**0.5) < 0.01), bool(abs(sin - 0.5**0.5) < 0.01)
            (True, True)

        Args:
            fn: a JAX function that gives the same for the same arguments.
            name: of the program, in the ledger and in messages; by default the function's.
        Raises: TypeError for what is no function.
        """
        return Jitted(self, fn, name)

    def pin(self, values: Tree) -> None:
        """Keep arrays until the runtime closes: `free` refuses them.

        SPU keeps the opening of an operand (`make_cached_var`) by the address of its memory; were that given to
        another array, the same mask would hide that one too.
        """
        self.require_own(values)
        self._pinned |= {stored.name for stored in jax.tree.leaves(values)}

    def require_own(self, values: Tree) -> None:
        """Refuse what is no handle of this runtime.

        Raises: ValueError for a handle of another runtime; SpentCorrelationError if it is one of a correlation;
            TypeError for anything else.
        """
        for node in jax.tree.leaves(values, is_leaf=is_declared):
            for leaf in jax.tree.leaves(node):
                if not isinstance(leaf, Stored):
                    raise TypeError(
                        f"a value is a {type(leaf).__name__}, but must be a handle: hand over what share(), publish(), "
                        "run() or a function of jit() returned"
                    )
                if leaf.runtime == self._number:
                    continue
                if is_declared(node):
                    raise SpentCorrelationError(
                        f"correlation {leaf.name} was not made by this runtime's correlations()"
                    )
                raise ValueError(
                    f"{leaf.name} is a handle of another runtime: a handle is used with the runtime that made it"
                )

    def _require_pinned(self, program: Program, inputs: list[Stored]) -> None:
        for number in program.audit.kept:
            if inputs[number].name not in self._pinned:
                raise ValueError(
                    f"{program.name} keeps the opening of {inputs[number].name}, which is not pinned: call pin first"
                )

    def _refuse_freed(self, nodes: list[Stored | CosineCorrelation]) -> None:
        """Refuse arrays that are gone; of whole correlations `_spend` knows."""
        names = (node.name for node in nodes if not isinstance(node, CosineCorrelation))
        if gone := [name for name in names if name in self._freed]:
            raise ValueError(
                f"{gone[0]} was freed, or is part of a correlation that is spent: nothing can use it any more"
            )

    def _let_go(self, values: Tree) -> None:
        """Note that arrays are about to be deleted, once that is known to be allowed."""
        self.require_own(values)
        self._refuse_pinned(values)
        self._freed |= {stored.name for stored in jax.tree.leaves(values)}

    def _refuse_pinned(self, values: Tree) -> None:
        if pinned := [stored.name for stored in jax.tree.leaves(values) if stored.name in self._pinned]:
            raise ValueError(f"{pinned[0]} is pinned: SPU has kept its opening, so it stays until the runtime closes")

    @property
    def programs(self) -> list[Program]:
        """Everything compiled so far."""
        return list(self._programs.values())

    def compiled(self, name: str, fn: Callable[..., Tree], specs: tuple[Tree, ...]) -> Program:
        """The program of a function for inputs of these specs; compiled and audited unless it was before."""
        leaves, tree = jax.tree.flatten(specs)
        key = (fn, tree, tuple(leaves))
        if key not in self._programs:
            self._programs[key] = compile_program(name, fn, specs)
        return self._programs[key]

    def _handle(self, spec: Spec) -> Stored:
        """A new handle, for an array that is to be stored."""
        return Stored(next(self._names), spec, self._number)

    def _handles(self, wanted: CosineCorrelation) -> CosineCorrelation:
        """Names for a correlation that is to be made."""
        handles: CosineCorrelation = jax.tree.map(lambda leaf: self._handle(spec_of(leaf, secret=True)), wanted)
        return handles

    def _factor_handles(self, handles: CosineCorrelation) -> list[list[Stored]]:
        """Names for every party's factors, cosines and sines, of a joint correlation."""
        return [[self._handle(handles.cos.spec) for _ in range(self.parties)] for _ in ("cos", "sin")]

    def _combined(self, handles: CosineCorrelation, factors: list[list[Stored]]) -> CosineCorrelation:
        """The joint correlation of a mask and every party's factors, which are deleted."""
        cos, sin = self.run("combine", combine_factors, *factors)
        self.free(factors)
        return replace(handles, cos=cos, sin=sin)

    def _made(self, tree: Tree) -> Correlations:
        """Correlations that this runtime has just made."""
        self._fresh |= {names_of(node) for node in jax.tree.leaves(tree, is_leaf=is_declared)}
        return Correlations(tree)

    def _spend(self, spent: list[CosineCorrelation], trees: tuple[Tree, ...]) -> None:
        """Refuse correlations that are not fresh, that come in by two ways, or otherwise than to be spent."""
        given = {names_of(node) for node in spent}
        times = Counter(stored.name for stored in jax.tree.leaves(trees))
        reserved = {name for names in self._fresh for name in names}
        for node in jax.tree.leaves(trees, is_leaf=is_declared):
            names = names_of(node)
            if (is_declared(node) or names in given) and names not in self._fresh:
                raise SpentCorrelationError(
                    f"correlation {names[0]} was spent by a run before, or not made by this runtime's correlations()"
                )
            if names not in given and reserved.intersection(names):
                raise SpentCorrelationError(
                    f"{names[0]} is part of a correlation that is not spent: hand over what correlations() returned"
                )
            if names in given and max(times[name] for name in names) > 1:
                raise SpentCorrelationError(f"correlation {names[0]} is {times[names[0]]} inputs of one run")
        self._fresh -= given

    def _public_handles(self, leaves: list[npt.NDArray[np.generic]]) -> list[Stored]:
        """Names for arrays that are to be published.

        Raises: ValueError for an array that a ring element cannot stand for, before any party sees it.
        """
        for leaf in leaves:
            encode(leaf)
        return [self._handle(spec_of(leaf, secret=False)) for leaf in leaves]

    def _refuse_unopenable(self, values: Tree) -> None:
        """A mask must not be seen before the value that it masks is; and comparisons' shares have another form."""
        self.require_own(values)
        reserved = {name for names in self._fresh for name in names}
        for stored in jax.tree.leaves(values):
            if stored.name in reserved:
                raise SpentCorrelationError(f"{stored.name} is part of an unspent correlation: nobody may see it")
            if stored.spec.dtype not in (np.float32, np.int32):
                raise ValueError(
                    f"{stored.name} has dtype {stored.spec.dtype}: only arithmetic shares of 64 bits are read here, of "
                    "float32 or int32; return it as x.astype(jnp.float32)"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
