"""Refuses what a data owner shares otherwise than announced: by that is counted, and opened, what all agreed on."""

from __future__ import annotations

from secp_spu.errors import RuntimeFailure
from secp_spu.runtime import Stored

REMEDY = "install the same secp-spu, unchanged, at all parties"


def require_announced(shared: int, announced: int, what: str) -> None:
    """Refuse more, or less, of a data owner than what was announced: what the model owner allows is counted by that.

    Raises: RuntimeFailure at all parties.
    """
    if shared != announced:
        raise RuntimeFailure(f"the data owner has shared {shared} {what} where {announced} were announced: {REMEDY}")


def require_shape(stored: Stored, wanted: tuple[int, ...], what: str) -> None:
    """The same of a shape: of what is opened there is never more than what all parties agreed on."""
    if stored.spec.shape != wanted:
        raise RuntimeFailure(
            f"the data owner has shared {what} of shape {stored.spec.shape} where {wanted} was announced: {REMEDY}"
        )
