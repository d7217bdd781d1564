"""What a run reports while it runs: an object with `stage`, `step`, `line` and `close`, silent by default."""


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
