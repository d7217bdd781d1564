"""The driver: moves handles between owners and runtime, and sees none of their values."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from secp_spu.config import Config
from secp_spu.errors import RuntimeFailure
from secp_spu.inference import Batch, parts
from secp_spu.progress import Progress
from secp_spu.runtime import Actor, Owned, Runtime
from secp_spu.tuning.batching import FINALISTS, Batching, choose_batching
from secp_spu.tuning.inputs import PromptSet, Split
from secp_spu.tuning.limits import Allowance, Amounts
from secp_spu.tuning.record import RunState, Usage
from secp_spu.tuning.shared_model import SharedModel, share_model, sizes_of


class Clock:
    """Counts what a session takes, on top of what sessions before it took."""

    def __init__(self, runtime: Runtime, seconds: float, forward_calls: int):
        self._runtime, self._start, self.forward_calls = runtime, time.perf_counter() - seconds, forward_calls

    def read(self) -> Usage:
        """So far; waits for what was asked so far."""
        self._runtime.settle()
        return Usage(time.perf_counter() - self._start, self.forward_calls, self._runtime.ledger.state())


@dataclass(frozen=True)
class Session:
    """A runtime that has the model and the texts, the data owner, and what asks the model owner for its consent."""

    runtime: Runtime
    config: Config
    data_owner: Actor
    shared: SharedModel
    batching: Batching
    batches: dict[Split, list[Batch]]
    sizes: dict[Split, int]
    allowance: Allowance
    progress: Progress
    clock: Clock

    def logits(self, prompts: PromptSet, first: int, last: int, split: Split) -> list[Owned]:
        """Logits of prompts on all texts of a split, opened to the data owner, a part for each batch of texts.

        Raises: LimitReached at all parties if the model owner's limits do not allow that, before it begins.
        """
        self.allowance.take(Amounts(evaluations=last - first, texts=(last - first) * self.sizes[split]))
        stored = self.shared.prompts(prompts, first, last)
        opened = [self.shared.answer(stored, batch) for batch in self.batches[split]]
        self.runtime.free(stored)
        self.clock.forward_calls += last - first
        return opened

    @property
    def chunks(self) -> list[range]:
        """The population in parts that go through the model together."""
        return list(parts(self.config.tuning.population, self.batching.candidates))

    def show(self, line: Owned) -> None:
        """Show a line that only the data owner may read, where it is; there may be none."""
        if text := self.runtime.at_home(line):
            self.progress.line(text)


def set_up(
    runtime: Runtime,
    config: Config,
    data_owner: Actor,
    model_owner: Actor,
    progress: Progress,
    allowance: Allowance | None = None,
) -> Session:
    """Share the model's weights and the texts' embeddings, once.

    Args:
        runtime: where it runs.
        config: of the run.
        data_owner: actor of a DataOwner.
        model_owner: actor of a ModelOwner.
        progress: told of every step.
        allowance: asks the model owner for what the run is to do; None where one process is all parties.
    Raises: LimitReached if the model owner's limits do not allow what is left of the run, ConfigError if the outputs'
        folder cannot be written; both before anything is shared.
    """
    allowance = allowance or Allowance()
    before: RunState = runtime.disclose(data_owner.public_state())
    sizes = sizes_of(runtime, data_owner)
    allowance.begin(_rest_of_run(config, before, sizes))
    data_owner.begin()
    if before["ledger"]:
        runtime.ledger.restore(before["ledger"])
    clock = Clock(runtime, before["seconds"], before["forward_calls"])
    shared = share_model(runtime, config, (data_owner, model_owner), progress, more_steps=len(sizes))
    batching = choose_batching(config.tuning, sizes, shared.most)
    batches = {}
    with runtime.ledger.phase("setup"):
        for split, size in sizes.items():
            some = parts(size, batching.texts[split])
            batches[split] = [shared.texts(split, part.start, part.stop) for part in some]
            progress.step()
        shared.embedding.end_set_up()
    return Session(runtime, config, data_owner, shared, batching, batches, sizes, allowance, progress, clock)


def _rest_of_run(config: Config, state: RunState, sizes: dict[Split, int]) -> Amounts:
    """What a run asks for from where it is on, by the data owner's word.

    Raises: RuntimeFailure for a state that no run is in.
    """
    made, wanted = state["generations"], config.tuning.generations
    if type(made) is not int or not 0 <= made <= wanted:
        raise RuntimeFailure(f"the data owner has made {made!r} of {wanted} generations: see its own output")
    rest, tests, population = wanted - made, 1 if state["tested"] else 2, config.tuning.population
    validation = FINALISTS * sizes["validation"]
    # The leaders are evaluated once more at the end.
    return Amounts(
        generations=rest,
        evaluations=rest * (population + FINALISTS) + FINALISTS + tests,
        texts=rest * (population * sizes["training"] + validation) + validation + tests * sizes["test"],
    )


def tune(session: Session) -> None:
    """Run forward-only tuning to its end, from where the data owner's record is.

    Source: forward-only tuning, arXiv 2506.15307, section 3.
    """
    owner, progress, config = session.data_owner, session.progress, session.config
    layers = session.shared.model.layers
    state: RunState = session.runtime.disclose(owner.public_state())
    if not state["tested"]:
        progress.stage("untuned prompt", layers * len(session.batches["test"]))
        session.show(owner.take_untuned(session.logits("untuned", 0, 1, "test")))
        session.show(owner.save(session.clock.read()))
    batches, candidates = session.batches, session.batching.candidates
    passes = len(session.chunks) * len(batches["training"]) + len(batches["validation"])
    for number in range(state["generations"], config.tuning.generations):
        if session.runtime.disclose(owner.has_ended()):
            break
        label = f"generation {number + 1} of {config.tuning.generations}, {candidates} candidates a pass"
        progress.stage(label, layers * passes)
        run_generation(session)
        session.show(owner.save(session.clock.read()))
    session.show(owner.why_stopped())
    progress.stage("tuned prompt", layers * (len(batches["validation"]) + len(batches["test"])))
    confirm_best(session)
    after = session.logits("best", 0, 1, "test")
    usage = session.clock.read()
    session.runtime.disclose(owner.finish(after, usage, session.runtime.ledger.report(), asdict(session.batching)))


def run_generation(session: Session) -> None:
    """Evaluate the next candidates on the training texts, and the finalists on the validation texts."""
    owner = session.data_owner
    session.allowance.take(Amounts(generations=1))
    owner.ask()
    owner.tell([session.logits("candidates", part.start, part.stop, "training") for part in session.chunks])
    owner.select(session.logits("finalists", 0, FINALISTS, "validation"))


def confirm_best(session: Session) -> None:
    """Evaluate the best so far once more, which is done whether the last generation found it or not."""
    session.data_owner.confirm(session.logits("leaders", 0, FINALISTS, "validation"))
