"""What tests see and a driver does not: the ring elements behind values, and what a single call cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from secp_spu.protocol import MaskStream
from secp_spu.runtime import LocalRuntime, Owned, Spec, Stored
from secp_spu.spu_release import installed_release

Setting = tuple[str, int]

ABY3: Setting = ("aby3", 3)
SEMI2K_2: Setting = ("semi2k", 2)
SEMI2K_3: Setting = ("semi2k", 3)
SETTINGS = (ABY3, SEMI2K_2, SEMI2K_3)

ULP = 2.0**-18
"""The last place of a fixed-point number."""

# (bytes an element, sends) of one operation on secrets, summed over the parties: under ABY3 they take turns.
REVEAL = {ABY3: (24, 3), SEMI2K_2: (16, 2), SEMI2K_3: (48, 6)}
MULTIPLY = {ABY3: (24, 3), SEMI2K_2: (32, 2), SEMI2K_3: (96, 6)}
# Truncation after a product, and by a constant of 2**-17 or 2**-18.
TRUNCATE = {ABY3: (28, 5), SEMI2K_2: (8, 2), SEMI2K_3: (48, 6)}
TRUNCATE_FAR = {ABY3: (40, 5), SEMI2K_2: (16, 2), SEMI2K_3: (48, 6)}


def without_debugging(cost: tuple[int, int], scalars: int) -> tuple[int, int]:
    """A cost under ABY3, pinned for SPU's debugging builds, on the release that is installed.

    Args:
        cost: bytes and messages of all parties.
        scalars: how many public scalars become shares.
    """
    elements = 0 if installed_release().debugging else scalars
    return cost[0] - 24 * elements, cost[1] - 3 * elements


def put(runtime: LocalRuntime, elements: np.ndarray, dtype: type = np.int32) -> Stored:
    """Share ring elements as they are: `Runtime.share` takes 32-bit values alone."""
    scheme, handle = runtime._scheme, runtime._handle(Spec(elements.shape, np.dtype(dtype), True))
    components = dict(enumerate(scheme.split(elements.view(np.uint64), MaskStream())))

    def store(party: Any) -> None:
        party.spu.set_var(handle.name, scheme.share(party.rank, components, handle.spec.dtype))

    runtime._everywhere(store)
    return handle


def peek(runtime: LocalRuntime, handle: Stored) -> np.ndarray:
    """All 64 bits of a value that the parties keep."""
    return runtime._scheme.reconstruct(runtime._everywhere(lambda party: party.spu.get_var(handle.name)))


def opened(runtime: LocalRuntime, values: Any) -> Any:
    """What the parties keep, as an owner would see it."""
    return runtime.open_to("owner", values).value


def shared(runtime: LocalRuntime, values: Any) -> Any:
    """Handles of an owner's values."""
    return runtime.share(Owned("owner", values))


def cost_of(runtime: LocalRuntime, call: Callable[[], Any], phase: str = "online") -> tuple[Any, tuple[int, int]]:
    """The result of a call, and what the parties together sent during it: (bytes, messages)."""
    before = runtime.ledger.state()[phase]["total"]
    result = call()
    after = runtime.ledger.state()[phase]["total"]
    return result, tuple(after[unit] - before[unit] for unit in ("bytes_total", "sends_total"))


def times(elements: int, *operations: tuple[int, int]) -> tuple[int, int]:
    """The cost of one operation after another, each on so many elements."""
    return sum(size * elements for size, _ in operations), sum(sends for _, sends in operations)


def is_kept(runtime: LocalRuntime, name: str) -> bool:
    """Whether the parties have a variable; asked of each directly, since a runtime ends with a party that fails."""
    kept = []
    for party in runtime._parties:
        try:
            kept.append(bool(party.spu.get_var(name)))
        except Exception:
            kept.append(False)
    assert len(set(kept)) == 1
    return kept[0]
