"""One tuning iteration of every method on one model's shape: what each costs, by stage and by program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from secp_spu.baseline import FineTuning, GradientPromptTuning, TrainingTexts
from secp_spu.baseline.fine_tuning import VOCABULARY_ROWS
from secp_spu.bench.least_bytes import least_bytes
from secp_spu.bench.measure_activation import series_of
from secp_spu.bench.mpc_setting import OWNER, MpcSetting
from secp_spu.bench.parts import Gradients, Part, layer_parts
from secp_spu.bench.records import Case, Record
from secp_spu.bench.scaling import extrapolate, stages
from secp_spu.bench.schema import Method
from secp_spu.bench.shapes import LABELS, SHAPES, RandomModel, RandomTexts
from secp_spu.errors import ConfigError
from secp_spu.inference import BackwardPass, Batch, SecureModel, StreamedLayers, pass_bytes
from secp_spu.model import (
    ACTIVATIONS,
    HIDDEN_BITS,
    SUM_BITS,
    ActivationKind,
    AttentionKind,
    EncoderLayer,
    Setting,
    TransformerConfig,
    is_function,
)
from secp_spu.progress import Progress
from secp_spu.protocol import Scheme, from_storage, to_storage
from secp_spu.runtime import Owned, PlaintextRuntime, Runtime, Stored
from secp_spu.trees import Floats, Tree
from secp_spu.tuning.gradient import cotangents

SCALE = 2.0**10
"""Of the cotangents that a data owner shares."""

ATTENTION: dict[Method, AttentionKind] = {
    "sft": "softmax",
    "prompt": "softmax",
    "fot": "softmax",
    "fot-rfa": "rfa",
    "fot-fourier": "fourier",
    "gradient": "fourier",
}
"""The methods: full fine-tuning and gradient prompt tuning wholly under MPC; forward-only tuning, that with random or
learned features; a gradient's step with learned features, the loss and the optimizer being at home."""

GRADIENTS: dict[Method, Gradients] = {
    "sft": "weights",
    "prompt": "inputs",
    "fot": None,
    "fot-rfa": None,
    "fot-fourier": None,
    "gradient": None,
}
"""Where JAX differentiates."""

LEARNING_RATE = 1e-3
SHORTEST = 8
"""Tokens: a quarter of them is the prompt's."""

MEMORY_SHARE = 0.5
"""Share of free memory that weights may take; a model that needs more is shared layer by layer."""


@dataclass(frozen=True)
class Iteration:
    """What is measured.

    Attributes:
        setting: what to run under.
        method: see `ATTENTION`.
        shape: a name in `SHAPES`.
        seq_len: tokens of prompt and text together.
        batch: texts.
        layers: how many of the shape's are run.
        extrapolate: scale the layers that were run, and one part of the word embeddings, to the whole shape.
        activation: of the feed-forward layers, and of the head where it may be: else that has "gelu_tanh".
        features: frequencies a head, of the methods that have some.
    """

    setting: MpcSetting
    method: Method
    shape: str
    seq_len: int
    batch: int
    layers: int
    extrapolate: bool
    activation: ActivationKind
    features: int

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"--model {self.shape}: must be one of {', '.join(SHAPES)}")
        if self.method not in ATTENTION:
            raise ConfigError(f"--methods {self.method}: must be some of {', '.join(ATTENTION)}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"--activation {self.activation}: must be one of {', '.join(ACTIVATIONS)}")
        if GRADIENTS[self.method] and not is_function(self.activation):
            raise ConfigError(
                f"--activation {self.activation}: is for forward passes, but {self.method} differentiates: measure it "
                "with gelu_tanh, by a command of its own into the same --json file"
            )
        whole = SHAPES[self.shape]
        if self.layers > whole.layers:
            raise ConfigError(f"--layers {self.layers}: {self.shape} has {whole.layers}")
        longest = whole.max_positions - whole.position_offset
        if not SHORTEST <= self.seq_len <= longest:
            raise ConfigError(f"--seq-len {self.seq_len}: {self.shape} takes {SHORTEST} to {longest} tokens")

    @property
    def config(self) -> TransformerConfig:
        """The encoder that is run."""
        return replace(
            SHAPES[self.shape],
            layers=self.layers,
            attention=ATTENTION[self.method],
            activation=self.activation,
            series=series_of(self.activation),
            head_activation=self.activation if is_function(self.activation) else "gelu_tanh",
            features=self.features,
        )

    @property
    def vocabulary_rows(self) -> int:
        """How many rows of the word embeddings are trained."""
        return min(SHAPES[self.shape].vocab_size, VOCABULARY_ROWS if self.extrapolate else 2**31)

    @property
    def key(self) -> Record:
        """Its record's key."""
        features = {"features": self.features} if ATTENTION[self.method] != "softmax" else {}
        return {
            "variant": self.method,
            **self.setting.key,
            "model": self.shape,
            "seq_len": self.seq_len,
            "batch": self.batch,
            "activation": self.activation,
            **features,
        }

    def memory_bytes(self, candidates: int = 1) -> int:
        """About what a forward pass of all parties takes, besides the weights; gradients take more."""
        return self.setting.parties * pass_bytes(self.config, candidates * self.batch, self.seq_len)

    def measure(self, progress: Progress) -> Record:
        """Costs of an iteration by phase, program and stage; the error is that of the logits, or of the loss."""
        expected = self._run(PlaintextRuntime(), lambda: None)[1]
        costs, found = self._run(self.setting.runtime(), progress.step)
        if self.extrapolate:
            whole = SHAPES[self.shape]
            factors = {"layers": whole.layers / self.layers, "words": whole.vocab_size / self.vocabulary_rows}
            costs = extrapolate(costs, **factors, shared=self._not_shared())
        return {**costs, "stages": stages(costs), "max_abs_error": float(np.abs(found - expected).max())}

    def _run(self, runtime: Runtime, on_layer: Callable[[], None]) -> tuple[Record, Floats]:
        with runtime:
            runs = {"sft": self._fine_tune, "prompt": self._tune_by_gradient, "gradient": self._step}
            result = runs.get(self.method, self._forward)(runtime, on_layer)
            value = np.asarray(runtime.open_to(OWNER, result).value)
            if self.method == "gradient":
                value = from_storage(value, SUM_BITS, secure=False) / SCALE
            return runtime.ledger.report(), value

    def _forward(self, runtime: Runtime, on_layer: Callable[[], None]) -> Stored:
        """One prompt's evaluation by forward-only tuning."""
        model, prompts, batch = self.shared(runtime, on_layer)
        return model.logits(prompts, batch)

    def _step(self, runtime: Runtime, on_layer: Callable[[], None]) -> Stored:
        """One prompt's gradient, of the loss that the data owner computes."""
        model, prompts, batch = self.shared(runtime, on_layer)
        with runtime.ledger.phase("setup"):
            way_back = BackwardPass(model)
            if model.keeps_openings:  # of the transposed weights too
                runtime.free(self._pull_back(runtime, model, way_back, prompts, batch))
        return self._pull_back(runtime, model, way_back, prompts, batch)

    def _pull_back(
        self, runtime: Runtime, model: SecureModel, way_back: BackwardPass, prompts: Stored, batch: Batch
    ) -> Stored:
        logits, kept = model.logits_and_kept(prompts, batch)
        opened = np.asarray(runtime.open_to(OWNER, logits).value)
        slopes = cotangents("cross_entropy", opened, self._texts.labels().argmax(-1)) * SCALE
        shared = runtime.share(Owned(OWNER, slopes.astype(np.float32)))
        # Of all rows, though a prompt's alone are wanted of the first layer: one layer is scaled to all of them.
        gradient = way_back.prompts(kept, shared, self.seq_len)
        runtime.free([logits, shared])
        return gradient

    def shared(
        self, runtime: Runtime, on_layer: Callable[[], None], candidates: int = 1
    ) -> tuple[SecureModel, Stored, Batch]:
        """The model, prompts and texts of forward-only tuning, at the compute parties."""
        config, texts = self.config, self._texts
        model = RandomModel(config)

        def share(number: int) -> Tree:
            variables = model.folded_layer(number)
            public = runtime.publish(variables["public"])
            return {"params": runtime.share(Owned(OWNER, variables["params"])), "public": public}

        with runtime.ledger.phase("setup"):
            streamed = StreamedLayers(runtime, config.layers, share)
            layers = streamed if self._exceeds_memory() else [share(number) for number in range(config.layers)]
            head = runtime.share(Owned(OWNER, model.folded_head()))
            hidden = to_storage(texts.embedded(self.seq_len - texts.prompt_tokens), HIDDEN_BITS)
            batch = Batch(**runtime.share(Owned(OWNER, _batch(hidden, texts))))
            secure = SecureModel(runtime, config, layers, head, LABELS, on_layer=on_layer)
            if secure.keeps_openings:  # the weights' are part of the set-up: every later pass finds them
                first = runtime.share(Owned(OWNER, to_storage(texts.prompts(1), HIDDEN_BITS)))
                runtime.free([secure.logits(first, batch, offline="setup"), first])
        return secure, runtime.share(Owned(OWNER, to_storage(texts.prompts(candidates), HIDDEN_BITS))), batch

    def _fine_tune(self, runtime: Runtime, on_layer: Callable[[], None]) -> Stored:
        texts, rows = self._texts, self.vocabulary_rows
        ids = texts.token_ids(self.seq_len, rows)
        given = TrainingTexts(ids, texts.padding_mask(), texts.readout(), texts.labels())
        weights = self._weights() | {"embeddings": RandomModel(self.config).embeddings()}
        trainer = FineTuning(
            runtime,
            self.config,
            Owned(OWNER, weights),
            Owned(OWNER, given),
            rate=LEARNING_RATE,
            vocabulary_rows=rows,
            on_layer=on_layer,
        )
        return trainer.step()

    def _tune_by_gradient(self, runtime: Runtime, on_layer: Callable[[], None]) -> Stored:
        texts = self._texts
        hidden = texts.embedded(self.seq_len - texts.prompt_tokens)
        given = TrainingTexts(hidden, texts.padding_mask(), texts.readout(), texts.labels())
        trainer = GradientPromptTuning(
            runtime,
            self.config,
            Owned(OWNER, self._weights()),
            Owned(OWNER, RandomModel(self.config).embeddings()),
            Owned(OWNER, texts.prompts()[0]),
            Owned(OWNER, given),
            rate=LEARNING_RATE,
            on_layer=on_layer,
        )
        return trainer.step()

    @property
    def _texts(self) -> RandomTexts:
        return RandomTexts(self.config, self.batch, self.seq_len)

    def _weights(self) -> dict[str, Tree]:
        model = RandomModel(self.config)
        layers = [model.layer(number)["params"] for number in range(self.layers)]
        return {"layers": layers, "head": model.head()}

    def _exceeds_memory(self) -> bool:
        elements = self.layers * sum(self._layer_sizes())
        free: int = psutil.virtual_memory().available
        return 8 * self._copies * elements > MEMORY_SHARE * free

    @property
    def _copies(self) -> int:
        """Components that all parties together hold of a shared element."""
        scheme = Scheme(self.setting.protocol, self.setting.parties)
        return sum(len(scheme.held_by(rank)) for rank in range(self.setting.parties))

    def _layer_sizes(self) -> list[int]:
        """Elements of every array of a layer's weights, as the method shares them."""
        inputs = jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1))
        layer = EncoderLayer(self.config, setting=Setting(folded=GRADIENTS[self.method] is None))
        shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)["params"]
        return [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]

    def _not_shared(self) -> dict[str, float]:
        """Figures of sharing the layers, and for fine-tuning the word embeddings, that an extrapolation leaves out."""
        whole, sizes = SHAPES[self.shape], self._layer_sizes()
        layers = whole.layers - self.layers
        elements, arrays = layers * sum(sizes), layers * len(sizes)
        if self.method == "sft":
            rows = whole.vocab_size - self.vocabulary_rows
            elements += rows * (whole.width + self.batch * self.seq_len)
            arrays += 2 * math.ceil(rows / VOCABULARY_ROWS)
        total = 8 * self._copies * elements
        return {"bytes_total": total, "bytes": total / self.setting.parties, "sends": arrays}


def _batch(hidden: Floats, texts: RandomTexts) -> dict[str, Floats]:
    return {"hidden": hidden, "padding_mask": texts.padding_mask(), "readout": texts.readout()}


def _measure_part(one: Iteration, part: Part) -> Record:
    """Its costs and, of a forward pass, the fewest bytes that it can have."""
    record = part.measure(one.setting, GRADIENTS[one.method])
    forward = GRADIENTS[one.method] is None and one.setting.parties <= 3
    least = least_bytes(part.name, one.config, one.batch, one.seq_len, one.setting.protocol) if forward else None
    return record if least is None else {**record, "least_bytes": least}


def iteration_cases(iterations: Sequence[Iteration], progress: Progress, *, operations: bool) -> Iterator[Case]:
    """An iteration of every method, and the parts of one layer of each.

    Args:
        iterations: what to measure.
        progress: told of every layer.
        operations: measure a layer's parts too.
    """
    for one in iterations:
        whole = SHAPES[one.shape].layers
        sizes = {
            "layers": whole if one.extrapolate else one.layers,
            "measured_layers": one.layers,
            "extrapolated": one.extrapolate,
        }
        differentiates = GRADIENTS[one.method] or one.method == "gradient"
        passes = 2 if differentiates or one.setting.protocol == "semi2k" else 1
        key = {"bench": "iteration", **one.key, **sizes}
        yield Case(key, partial(one.measure, progress), passes * one.layers, one.memory_bytes())
    for one in iterations if operations else ():
        folded = GRADIENTS[one.method] is None
        parts = layer_parts(one.config, one.batch, one.seq_len, protocol=one.setting.protocol, folded=folded)
        for part in parts:
            key = {"bench": "operation", **one.key, "operation": part.name}
            yield Case(key, partial(_measure_part, one, part))
