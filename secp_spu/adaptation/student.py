"""Makes a student of a softmax model, with attention by features, and says how far off it is.

Features dropped into a pre-trained model destroy it. Distillation by the model owner, in plaintext and on texts that
anybody may see, brings it back: every layer of the student is to give the hidden states of its teacher's, and its
output what the teacher's is. The embeddings and the masked-LM head stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from secp_spu.model.activation import ACTIVATIONS, is_gelu
from secp_spu.model.attention import attention_class
from secp_spu.model.folding import expected_squares
from secp_spu.model.head import LabelWordHead, PooledEmbedding
from secp_spu.model.hub.checkpoint import DEFAULT_TERMS, Checkpoint
from secp_spu.model.hub.config_json import CheckpointError
from secp_spu.model.layers import Norm
from secp_spu.model.transformer import EncoderLayer, Transformer
from secp_spu.model.transformer_config import ActivationKind, AttentionKind, TransformerConfig
from secp_spu.protocol import fit_gelu
from secp_spu.protocol.gelu import LIMITS
from secp_spu.trees import Floats, Tree

STUDENT_ATTENTION: AttentionKind = "fourier"
"""The kind of attention that adaptation gives a student: the cheapest under MPC."""

LEAST_KERNEL = 0.05
"""Mean kernels below it are penalised: under MPC their reciprocal is for 1/32 and more."""

KERNEL_WEIGHT = 10.0
"""Weight of the penalty for small kernels. Few kernels are small, so the mean penalty hardly counts without it."""

RANGE_SHARE = 0.9997
"""Share of the activation's inputs that the range of a series holds before adaptation."""

NEW_RATE = 5.0
"""Learning rate of parameters that the teacher does not have, such as frequencies, relative to the other rate."""

CLIP_NORM = 1.0

FINAL_RATE = 0.02
"""Learning rate of the last step, relative to the peak. The warm-up is a tenth of the steps, 100 at most."""


@dataclass(frozen=True)
class Texts:
    """A batch of token ids.

    Attributes:
        ids: [batch, tokens].
        mask: 1 for tokens, 0 for padding [batch, tokens].
        place: one at the token whose masked-LM logits are compared [batch, tokens].
    """

    ids: Array
    mask: Array
    place: Array


jax.tree_util.register_dataclass(Texts, ["ids", "mask", "place"], [])


@dataclass(frozen=True)
class Pass:
    """What a forward pass shows of every layer; a pytree.

    Attributes:
        hidden: hidden states [batch, tokens, width].
        inner: inputs of the activation [batch, tokens, intermediate].
        kernels: mean kernels of attention by features [batch, heads, tokens, 1].
    """

    hidden: list[Array]
    inner: list[Array]
    kernels: list[Array]


jax.tree_util.register_dataclass(Pass, ["hidden", "inner", "kernels"], [])


def run(config: TransformerConfig, variables: Tree, texts: Texts) -> Pass:
    """A forward pass in plaintext."""

    def watched(module: nn.Module, _method: str) -> bool:
        return isinstance(module, EncoderLayer) or module.name == "intermediate"

    _, seen = Transformer(config).apply(
        variables, texts.ids, texts.mask, capture_intermediates=watched, mutable=["intermediates"]
    )
    layers = [seen["intermediates"][f"layers_{i}"] for i in range(config.layers)]
    watched_layers = layers if attention_class(config).watches_kernel else []
    kernels = [layer["attention"]["mean_kernel"][0] for layer in watched_layers]
    inner = [layer["intermediate"]["__call__"][0] for layer in layers]
    return Pass([layer["__call__"][0] for layer in layers], inner, kernels)


@dataclass(frozen=True)
class Student:
    """A model to train.

    Attributes:
        config: of its encoder.
        variables: "params".
        limit: what |x| in front of the activation is kept below, if that is a series or a quadratic.
    """

    config: TransformerConfig
    variables: Tree
    limit: float | None


def make_student(
    teacher: Checkpoint,
    batches: Sequence[Texts],
    *,
    features: int = 64,
    seed: int = 0,
    activation: ActivationKind | None = None,
) -> Student:
    """The teacher's weights with attention by features and, if asked, another activation.

    Args:
        teacher: with softmax attention.
        batches: of texts, on which the activation's inputs are measured.
        features: frequencies a head.
        seed: of the frequencies.
        activation: instead of the teacher's own, which must be GELU.
    Raises: CheckpointError for a teacher that was adapted already, or an activation that cannot stand for its own, or
        one whose inputs are not finite.
    """
    own = teacher.config
    if attention_class(own).adapted:
        raise CheckpointError(f"{teacher.folder} has {own.attention} attention: adapt the checkpoint that it came from")
    if activation and not is_gelu(own.activation):
        raise CheckpointError(f"{teacher.folder} has activation {own.activation}: {activation} stands for GELU alone")
    inner = _inputs_of_activation(teacher, batches) if activation else []
    limit = _range(inner) if activation else None
    series = fit_gelu(limit, DEFAULT_TERMS) if limit and activation and ACTIVATIONS[activation].uses_series else None
    config = replace(
        own,
        attention=STUDENT_ATTENTION,
        features=features,
        feature_seed=seed,
        activation=activation or own.activation,
        series=series,
    )
    inputs = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))
    fresh = jax.device_get(Transformer(config).init(jax.random.key(0), *inputs))
    params = {**teacher.variables["params"]}
    for number in range(own.layers):
        name = f"layers_{number}"
        norm = _norm_before(params, number, own)
        layer = {**params[name], "attention": fresh["params"][name]["attention"]}
        projections = layer["query_key_value"]
        squares = expected_squares(projections, norm, config)
        layer["query_key_value"] = attention_class(config).initial_projections(projections, squares, config)
        if activation and ACTIVATIONS[activation].parameters:
            layer["activation"] = ACTIVATIONS[activation].initial(inner[number])
        params[name] = layer
    return Student(config, {"params": params}, limit)


def _norm_before(params: Tree, number: int, config: TransformerConfig) -> Tree:
    """The norm whose rows a layer projects."""
    if config.causal:
        return params[f"layers_{number}"]["attention_norm"]
    return params[f"layers_{number - 1}"]["output_norm"] if number else params["embeddings"]["norm"]


def _inputs_of_activation(teacher: Checkpoint, batches: Sequence[Texts]) -> list[Floats]:
    """Those of every layer, on tokens that are none of padding [tokens, intermediate]."""
    forward = jax.jit(lambda variables, texts: run(teacher.config, variables, texts).inner)
    found = [(forward(teacher.variables, texts), np.asarray(texts.mask, bool)) for texts in batches]
    layers = range(teacher.config.layers)
    inner = [np.concatenate([np.asarray(inner[i])[mask] for inner, mask in found]) for i in layers]
    if not all(np.isfinite(x).all() for x in inner):
        raise CheckpointError(
            f"{teacher.folder} computes values that are not finite: take a model whose weights are sound"
        )
    return inner


def _range(inner: Sequence[Floats]) -> float:
    """What holds RANGE_SHARE of all inputs, rounded up to a half."""
    sizes = np.abs(np.concatenate([x.ravel() for x in inner]))
    return float(np.clip(np.ceil(2 * np.quantile(sizes, RANGE_SHARE)) / 2, *LIMITS))


def _mean(rows: Array, mask: Array) -> Array:
    """Over all tokens that are none of padding, of [batch, tokens]."""
    return (rows * mask).sum() / mask.sum()


@dataclass(frozen=True)
class Distillation:
    """The objective of a student, and its optimizer.

    Attributes:
        teacher: the model it is to be like.
        student: as it starts.
        steps: of training.
        rate: the peak learning rate.
        accumulate: batches whose gradients make one step.
        half: compute in bfloat16; weights and their optimizer stay in float32.
    """

    teacher: Checkpoint
    student: Student
    steps: int
    rate: float
    accumulate: int = 1
    half: bool = False

    @property
    def given(self) -> Tree:
        """What stays as it is, as an argument of compiled functions: the teacher's "params" and "head"."""
        return {"params": self.teacher.variables["params"], "head": self.teacher.head or {}}

    def objective(self, layers: Tree, given: Tree, texts: Texts) -> tuple[Array, dict[str, Array]]:
        """What is made small, and its parts.

        Args:
            layers: params of the student without "embeddings".
            given: see there.
            texts: a batch.
        Returns: the sum of: the mean square difference of hidden states in terms of the teacher's, over all layers and
            tokens; of masked-LM logits KL(teacher, student), or without a head 1 - cosine of the pooled
            embeddings; penalties for mean kernels below LEAST_KERNEL, in terms of it, and for inputs of an activation
            beyond its range.
        """
        wanted, found = self._both(layers, given, texts, half=self.half)
        differences = [
            _mean(_relative_difference(a.astype(jnp.float32), b.astype(jnp.float32)), texts.mask)
            for a, b in zip(wanted.hidden, found.hidden, strict=True)
        ]
        lacking = [jax.nn.relu(1 - kernel[..., 0].astype(jnp.float32) / LEAST_KERNEL) ** 2 for kernel in found.kernels]
        losses = {
            "hidden": jnp.mean(jnp.stack(differences)),
            "output": self._output_loss(wanted.hidden[-1], found.hidden[-1], given, texts),
            "kernel": KERNEL_WEIGHT * jnp.mean(jnp.stack([_mean(x.mean(1), texts.mask) for x in lacking])),
        }
        if self.student.limit:
            beyond = [jax.nn.relu(jnp.abs(x) - self.student.limit).astype(jnp.float32) ** 2 for x in found.inner]
            losses["range"] = jnp.mean(jnp.stack([_mean(x.mean(-1), texts.mask) for x in beyond]))
        return sum(losses.values(), jnp.zeros(())), losses

    def _both(self, layers: Tree, given: Tree, texts: Texts, *, half: bool) -> tuple[Pass, Pass]:
        """A pass of the teacher, and one of the student."""
        params = given["params"], {**layers, "embeddings": given["params"]["embeddings"]}
        teacher, student = ({"params": _half(one) if half else one} for one in params)
        return run(self.teacher.config, teacher, texts), run(self.student.config, student, texts)

    def _output_loss(self, wanted: Array, found: Array, given: Tree, texts: Texts) -> Array:
        if not given["head"]:
            return 1 - self._similarities(wanted, found, given, texts.mask).mean()
        config = self.teacher.config
        head = LabelWordHead(config, config.vocab_size)
        variables = {"params": _half(given["head"]) if self.half else given["head"]}
        logits = [
            jnp.asarray(head.apply(variables, hidden, texts.place)).astype(jnp.float32) for hidden in (wanted, found)
        ]
        wanted_logs, found_logs = (jax.nn.log_softmax(x) for x in logits)
        divergence: Array = (jnp.exp(wanted_logs) * (wanted_logs - found_logs)).sum(-1).mean()
        return divergence

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with warm-up and cosine decay; what the teacher has not learns NEW_RATE times as fast, unclipped."""

        def adam(rate: float) -> optax.GradientTransformation:
            warm_up = min(100, self.steps // 10)
            schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, self.steps, rate * FINAL_RATE)
            return optax.adamw(schedule, weight_decay=0.0)

        old = optax.chain(optax.clip_by_global_norm(CLIP_NORM), adam(self.rate))
        kinds = {"old": old, "new": adam(NEW_RATE * self.rate)}
        optimizer = optax.multi_transform(kinds, _is_new)
        steps = optax.MultiSteps(optimizer, self.accumulate)
        return optax.GradientTransformation(steps.init, steps.update)

    @property
    def trained(self) -> Tree:
        """Params of the student without "embeddings", as they start."""
        return {name: leaf for name, leaf in self.student.variables["params"].items() if name != "embeddings"}

    def similarity(self, layers: Tree, given: Tree, texts: Texts) -> tuple[Array, Array]:
        """Cosine of teacher's and student's pooled embeddings [batch], and the least mean kernel of a token."""
        wanted, found = self._both(layers, given, texts, half=False)
        kernels = jnp.stack([kernel[..., 0] for kernel in found.kernels])
        least = jnp.where(texts.mask[None, :, None, :] == 1, kernels, jnp.inf).min()
        return self._similarities(wanted.hidden[-1], found.hidden[-1], given, texts.mask), least

    def _similarities(self, wanted: Array, found: Array, given: Tree, mask: Array) -> Array:
        """Cosines of the pooled embeddings [batch] of hidden states [batch, tokens, width], a decoder's normalised."""
        both = jnp.stack([wanted, found]).astype(jnp.float32)
        if self.teacher.config.causal:
            norm = Norm(self.teacher.config.layer_norm_epsilon)
            both = jnp.asarray(norm.apply({"params": given["head"]["norm"]}, both))
        readout = mask / mask.sum(-1, keepdims=True)
        pooled = [jnp.asarray(PooledEmbedding().apply({}, x, readout)) for x in both]
        return (pooled[0] * pooled[1]).sum(-1)


def _relative_difference(wanted: Array, found: Array) -> Array:
    """Mean square difference of every token [batch, tokens] in terms of the wanted mean square."""
    return jnp.square(wanted - found).mean(-1) / jnp.square(wanted).mean(-1)


def _half(params: Tree) -> Tree:
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), params)


def _is_new(params: Tree) -> Tree:
    """ "new" or "old" for every leaf: attention and activation have parameters that the teacher has not."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "new" if path[1].key in ("attention", "activation") else "old", params
    )
