"""What all runtimes of a single process share: owners as objects here, and values that nobody has to send."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from secp_spu.runtime.base import Runtime
from secp_spu.runtime.handles import Owned, Value, values_for


class OneProcessRuntime(Runtime):
    """A runtime whose owners are objects of this process."""

    @override
    def actor(self, party: str, make: Callable[..., object], *args: object, **kwargs: object) -> LocalActor:
        return LocalActor(party, make(*args, **kwargs))

    @override
    def disclose(self, value: Owned) -> Value:
        return value.value

    @override
    def at_home(self, value: Owned) -> Value:
        return value.value


class LocalActor:
    """An object that belongs to one party; what its methods return does too."""

    def __init__(self, party: str, instance: object):
        self._party, self._instance = party, instance

    def __getattr__(self, method: str) -> Callable[..., Owned]:
        bound = getattr(self._instance, method)

        def call(*args: object, **kwargs: object) -> Owned:
            plain, named = values_for(self._party, (args, kwargs))
            return Owned(self._party, bound(*plain, **named))

        return call
