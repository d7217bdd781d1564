"""Sets up forward-only tuning to measure it; nobody keeps its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from secp_spu.config import Config
from secp_spu.progress import Progress
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, Session, make_runtime, set_up
from secp_spu.tuning.inputs import PromptSet


@contextmanager
def tuning_session(config: Config) -> Iterator[Session]:
    """A run that is set up, with the runtime that its configuration asks for."""
    with TemporaryDirectory() as nowhere, make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, Path(nowhere), resume=False)
        yield set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())


def test_accuracy(session: Session, prompt: PromptSet) -> float:
    """Accuracy of a prompt on the task's test texts."""
    found: float = session.runtime.disclose(session.data_owner.test_accuracy(session.logits(prompt, 0, 1, "test")))
    return found
