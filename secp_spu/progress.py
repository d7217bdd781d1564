"""What a run reports while it runs: an object with `stage`, `step`, `line` and `close`, silent by default."""

from __future__ import annotations

from reprlib import repr as shortened


class Progress:
    """Progress of a run; this one is silent."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of `steps` steps begins, and the one before ends."""

    def step(self) -> None:
        """A step of the stage is done."""

    def line(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """The run is over."""


def progress_of(value: object) -> Progress:
    """The argument `progress`; a silent one for None.

    Raises: TypeError.
    """
    if value is not None and not isinstance(value, Progress):
        raise TypeError(f"`progress` is {shortened(value)}, but must be a secp_spu.progress.Progress, or None")
    return value or Progress()
