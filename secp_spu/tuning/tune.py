"""The driver: moves handles between owners and runtime, and sees none of their values."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from secp_spu.config import Config, ConfigError
from secp_spu.runtime import Batch, LocalRuntime, Owned, PlaintextRuntime, Runtime, SecureModel, parts
from secp_spu.tuning.batching import FINALISTS, Batching, choose_batching, sequences_that_fit
from secp_spu.tuning.embedding import Embedding, make_embedding
from secp_spu.tuning.owner import PromptSet, Split
from secp_spu.tuning.progress import Progress
from secp_spu.tuning.record import Usage

if TYPE_CHECKING:
    from secp_spu.runtime.secretflow import SecretFlowRuntime

DATA_OWNER = "data_owner"
"""The party that alone sees logits."""


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
    """A runtime that has the model and the texts, and the data owner."""

    runtime: Runtime
    config: Config
    data_owner: Any
    model: SecureModel
    embedding: Embedding
    batching: Batching
    batches: dict[Split, list[Batch]]
    progress: Progress
    clock: Clock

    def logits(self, prompts: PromptSet, first: int, last: int, split: Split) -> list[Owned]:
        """Logits of prompts on all texts of a split, opened to the data owner, a part for each batch of texts."""
        runtime = self.runtime
        shared = self.embedding.prompts(prompts, first, last)
        opened = []
        for batch in self.batches[split]:
            logits = self.model.logits(shared, batch)
            opened.append(runtime.open_to(DATA_OWNER, logits))
            runtime.free(logits)
        runtime.free(shared)
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


def make_runtime(config: Config) -> Runtime:
    """The runtime that a configuration asks for, with all parties on this machine.

    Raises: ConfigError for a configuration of several machines, or without SecretFlow where it is needed.
    """
    if config.protocol == "plaintext":
        return PlaintextRuntime()
    if config.cluster:
        if config.cluster.addresses:
            raise ConfigError("cluster.addresses name a machine for each party: start each with secp-spu party")
        return _secretflow(config, None)
    return LocalRuntime(config.protocol, config.parties, correlations=config.correlations)


def join_cluster(config: Config, party: str) -> Runtime:
    """One party's runtime of a cluster, when all parties are up and agree on the configuration.

    Raises: ConfigError if they do not agree, or this configuration is none of a cluster with that party.
    """
    if config.cluster is None or config.cluster.addresses is None:
        raise ConfigError("cluster.addresses are missing: they say where each party is")
    runtime = _secretflow(config, party)
    try:
        own = {f"the version of {name}": version(name) for name in ("secp-spu", "spu", "jax")}
        _agree(runtime.gather(own | config.agreed()), party)
    except BaseException:
        runtime.abandon()
        raise
    return runtime


def _agree(facts: dict[str, dict[str, Any]], party: str) -> None:
    """Refuse a cluster whose parties have different configurations or versions."""
    mine = facts[party]
    for other, theirs in facts.items():
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"the parties' configurations differ: {key} is {mine.get(key)!r} at {party}, but "
                    f"{theirs.get(key)!r} at {other}; give all parties the same"
                )


def _secretflow(config: Config, party: str | None) -> SecretFlowRuntime:
    if config.cluster is None:
        raise ConfigError("cluster: is missing")
    try:
        from secp_spu.runtime.secretflow import SecretFlowRuntime
    except ImportError as error:
        raise ConfigError(
            f"{error.name or error} cannot be imported, and `cluster:` needs SecretFlow: see 'Installing' in the README"
        ) from error
    return SecretFlowRuntime(config.protocol, config.cluster, party)


def set_up(runtime: Runtime, config: Config, data_owner: Any, model_owner: Any, progress: Progress) -> Session:
    """Share the model's weights and the texts' embeddings, once.

    Args:
        runtime: where it runs.
        config: of the run.
        data_owner: actor of a DataOwner.
        model_owner: actor of a ModelOwner.
        progress: told of every step.
    Raises: ConfigError if the outputs' folder cannot be written, before anything is shared.
    """
    data_owner.begin()
    before = runtime.disclose(data_owner.public_state())
    if before["ledger"]:
        runtime.ledger.restore(before["ledger"])
    clock = Clock(runtime, before["seconds"], before["forward_calls"])
    by_words = config.model.head == "label_words"
    word_ids = runtime.disclose(data_owner.label_word_ids())
    encoder = runtime.disclose(model_owner.encoder_config())
    sizes = runtime.disclose(data_owner.sizes())
    progress.stage("set-up", encoder.layers + len(sizes) + (0 if by_words else encoder.layers))
    with runtime.ledger.phase("setup"):
        layers = []
        for number in range(encoder.layers):
            public = runtime.publish(runtime.disclose(model_owner.layer_public(number)))
            layers.append({"params": runtime.share(model_owner.layer(number)), "public": public})
            progress.step()
        head = runtime.share(model_owner.label_word_head(word_ids) if by_words else model_owner.last_norm())
        model = SecureModel(runtime, encoder, layers, head, len(config.task.labels), on_layer=progress.step)
        tuning, owners = config.tuning, (data_owner, model_owner)
        most = sequences_that_fit(runtime, encoder, tuning.prompt_tokens + config.task.max_tokens)
        batching = choose_batching(tuning, sizes, most)
        embedding = make_embedding(runtime, config.model.embedding, encoder, owners, prompt_tokens=tuning.prompt_tokens)
        batches = {}
        for split, size in sizes.items():
            batches[split] = [embedding.texts(split, p.start, p.stop) for p in parts(size, batching.texts[split])]
            progress.step()
        if not by_words:
            model.embed_labels(embedding.labels())
        embedding.end_set_up()
    return Session(runtime, config, data_owner, model, embedding, batching, batches, progress, clock)


def tune(session: Session) -> None:
    """Run forward-only tuning to its end, from where the data owner's record is.

    Source: forward-only tuning, arXiv 2506.15307, section 3.
    """
    owner, progress, config, layers = session.data_owner, session.progress, session.config, session.model.layers
    state = session.runtime.disclose(owner.public_state())
    if not state["tested"]:
        progress.stage("untuned prompt", layers * len(session.batches["test"]))
        session.show(owner.take_untuned(session.logits("untuned", 0, 1, "test")))
        session.show(owner.save(session.clock.read()))
    batches, candidates = session.batches, session.batching.candidates
    passes = len(session.chunks) * len(batches["training"]) + len(batches["validation"])
    for number in range(state["generations"], config.tuning.generations):
        label = f"generation {number + 1} of {config.tuning.generations}, {candidates} candidates a pass"
        progress.stage(label, layers * passes)
        run_generation(session)
        session.show(owner.save(session.clock.read()))
    progress.stage("tuned prompt", layers * len(session.batches["test"]))
    after = session.logits("best", 0, 1, "test")
    usage = session.clock.read()
    session.runtime.disclose(owner.finish(after, usage, session.runtime.ledger.report(), asdict(session.batching)))


def run_generation(session: Session) -> None:
    """Evaluate the next candidates on the training texts, and the finalists on the validation texts."""
    owner = session.data_owner
    owner.ask()
    owner.tell([session.logits("candidates", part.start, part.stop, "training") for part in session.chunks])
    owner.select(session.logits("finalists", 0, FINALISTS, "validation"))
