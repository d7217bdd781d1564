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

    def step(self) -> None:
        """A step from the prompt that was asked for last: logits on the training texts, and the gradient of their loss.

        Raises: LimitReached at all parties, likewise.
        """
        texts = self.sizes["training"]
        self.allowance.take(Amounts(evaluations=1, texts=texts))
        self.clock.forward_calls += 1
        batches = list(zip(parts(texts, self.batching.texts["training"]), self.batches["training"], strict=True))
        if self.config.tuning.opens_gradients:
            self.data_owner.descend(*self.shared.opened_gradient(batches, self.data_owner))
        else:
            self.data_owner.descend_unseen(*self.shared.unseen_step(batches, self.data_owner))

    @property
    def chunks(self) -> list[range]:
        """The population in parts that go through the model together."""
        return list(parts(self.config.tuning.candidates, self.batching.candidates))

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
    owners = data_owner, model_owner
    gradients = config.tuning.uses_gradients
    shared = share_model(runtime, config, owners, progress, more_steps=len(sizes), gradients=gradients)
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
    tuning = config.tuning
    candidates = (wanted - made) * tuning.candidates
    # The leaders are evaluated once more at the end.
    finalists = FINALISTS * (1 + sum(map(tuning.is_validated, range(made + 1, wanted + 1))))
    tests = 1 if state["tested"] else 2
    texts = candidates * sizes["training"] + finalists * sizes["validation"] + tests * sizes["test"]
    return Amounts(generations=wanted - made, evaluations=candidates + finalists + tests, texts=texts)


def opened_numbers(session: Session) -> dict[str, int]:
    """How many numbers a whole run opens to the data owner, by what they are."""
    config, new = session.config, RunState(generations=0, tested=False, seconds=0, forward_calls=0, ledger={})
    tuning, texts = config.tuning, _rest_of_run(config, new, session.sizes).texts
    of_prompt = tuning.prompt_tokens * session.shared.model.config.width
    return {
        "logits": texts * len(config.task.labels),
        "gradients": tuning.generations * of_prompt if tuning.opens_gradients else 0,
        "prompt": 0 if session.shared.directions is None else of_prompt,
    }


def tune(session: Session) -> None:
    """Tune to the end, from where the data owner's record is.

    Source: forward-only tuning, arXiv 2506.15307, section 3.
    """
    owner, progress, config = session.data_owner, session.progress, session.config
    layers = session.shared.model.layers
    state: RunState = session.runtime.disclose(owner.public_state())
    if not state["tested"]:
        progress.stage("untuned prompt", layers * len(session.batches["test"]))
        session.show(owner.take_untuned(session.logits("untuned", 0, 1, "test")))
        session.show(owner.save(session.clock.read()))
    for number in range(state["generations"], config.tuning.generations):
        if session.runtime.disclose(owner.has_ended()):
            break
        is_validated = config.tuning.is_validated(number + 1)
        progress.stage(_label(session, number + 1), layers * _passes(session, is_validated=is_validated))
        run_generation(session, is_validated=is_validated)
        session.show(owner.save(session.clock.read()))
    session.show(owner.why_stopped())
    progress.stage("tuned prompt", layers * (len(session.batches["validation"]) + len(session.batches["test"])))
    confirm_best(session)
    after = session.logits("best", 0, 1, "test")
    if session.shared.directions is not None:
        owner.take_tuned(session.shared.directions.opened("best"))
    usage = session.clock.read()
    session.runtime.disclose(owner.finish(after, usage, session.runtime.ledger.report(), asdict(session.batching)))


def _label(session: Session, number: int) -> str:
    tuning = session.config.tuning
    what = "a step" if tuning.uses_gradients else f"{session.batching.candidates} candidates a pass"
    return f"generation {number} of {tuning.generations}, {what}"


def _passes(session: Session, *, is_validated: bool) -> int:
    """Passes of a generation, forward and backward."""
    training, validation = len(session.batches["training"]), len(session.batches["validation"])
    directions = 2 if session.config.tuning.uses_gradients else 1
    return directions * len(session.chunks) * training + is_validated * validation


def run_generation(session: Session, *, is_validated: bool = True) -> None:
    """Evaluate the next candidates on the training texts, or step along a gradient; then the finalists."""
    owner = session.data_owner
    session.allowance.take(Amounts(generations=1))
    owner.ask()
    if session.config.tuning.uses_gradients:
        session.step()
    else:
        owner.tell([session.logits("candidates", part.start, part.stop, "training") for part in session.chunks])
    if is_validated:
        owner.select(session.logits("finalists", 0, FINALISTS, "validation"))


def confirm_best(session: Session) -> None:
    """Evaluate the best so far once more, which is done whether the last generation found it or not."""
    session.data_owner.confirm(session.logits("leaders", 0, FINALISTS, "validation"))
