"""Accuracy of training in plaintext: what one would do with a few labelled texts if nothing were secret.

A linear probe on the embeddings of the texts, and gradients: of all weights (fine-tuning) or of a soft prompt. All of
them start from the pre-trained model with softmax attention and are selected on the validation texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.optimize import minimize

from secp_spu.config import Config
from secp_spu.model import PooledEmbedding, Transformer, load_checkpoint
from secp_spu.model.head import SIMILARITY_SCALE
from secp_spu.trees import Floats, Ints, Tree
from secp_spu.tuning.data_owner import Texts, read_splits
from secp_spu.tuning.initial_prompt import make_initial_prompt, prompt_generator
from secp_spu.tuning.logits import accuracy, losses
from secp_spu.tuning.task import TaskTokenizer

RATES = {"fine-tuning": (1e-5, 3e-5, 1e-4), "gradient-prompt": (2e-2,)}
"""Learning rates, found on the tasks' pools; the validation texts choose one."""

STEPS = {"fine-tuning": 20, "gradient-prompt": 40}
"""Steps of Adam at each learning rate, each on all training texts."""

CHECK = 4
"""Steps between two looks at the validation texts."""

PENALTIES = 10.0 ** np.arange(-4, 2)
"""Penalties on a probe's squared weights; the validation texts choose one."""

TEST_BATCH = 50


class FewShot:
    """A task's texts and the pre-trained model.

    Args:
        config: of a task with `head: label_embeddings`; its seed decides texts and initial prompt as in tuning.
    """

    def __init__(self, config: Config):
        seed = config.tuning.seed or 0
        checkpoint = load_checkpoint(config.model.folder)
        tokenizer = TaskTokenizer(config.model.folder / "tokenizer.json")
        self.encoder = checkpoint.config
        self._module, self._variables = Transformer(checkpoint.config), checkpoint.variables
        self.params = checkpoint.variables["params"]
        self.texts = read_splits(config.task, tokenizer, seed)
        described = tokenizer.encode_descriptions(config.task)
        initial = make_initial_prompt(config, checkpoint.config, tokenizer, rng=prompt_generator(seed))
        self.prompt = initial.vectors(self.params["embeddings"]["word"]["embedding"])
        self._embed = jax.jit(self.embed)
        self.labels = self._embed(self.params, self.prompt[:0], described.token_ids, described.padding_mask)

    def embed(self, params: Tree, prompt: Array | Floats, ids: Ints, mask: Array | Floats) -> Array:
        """Sentence embeddings [texts, width] of token ids [texts, tokens] behind a prompt [prompt_tokens, width]."""
        before = jnp.broadcast_to(prompt, (len(ids), *prompt.shape))
        vectors = jnp.concatenate([before, params["embeddings"]["word"]["embedding"][ids]], 1)
        mask = jnp.concatenate([jnp.ones(before.shape[:2]), mask], 1)
        hidden = self._module.apply(
            {**self._variables, "params": params}, vectors, mask, method=Transformer.encode_vectors
        )
        return jnp.asarray(PooledEmbedding().apply({}, hidden, mask / mask.sum(1, keepdims=True)))

    def embeddings(self, texts: Texts, params: Tree, prompt: Array | Floats) -> Floats:
        """The same of a whole set of texts, batch by batch."""
        ids, mask = texts.tokens.token_ids, texts.tokens.padding_mask
        starts = range(0, len(ids), TEST_BATCH)
        embedded: Floats = np.concatenate(
            [self._embed(params, prompt, ids[i : i + TEST_BATCH], mask[i : i + TEST_BATCH]) for i in starts]
        )
        return embedded

    def logits(self, texts: Texts, model: Tree) -> Floats:
        """Logits [texts, labels] of a model {"params", "labels", "prompt"}."""
        embedded = self.embeddings(texts, model["params"], model["prompt"])
        logits: Floats = embedded @ np.asarray(model["labels"]).T * SIMILARITY_SCALE
        return logits


@dataclass(frozen=True)
class Result:
    """What a rival reaches.

    Attributes:
        validation_loss: of what was selected.
        accuracy: on the test texts.
    """

    validation_loss: float
    accuracy: float


def probe(task: FewShot) -> Result:
    """Logistic regression on the embeddings of the training texts, no prompt before them."""
    found = {name: task.embeddings(texts, task.params, task.prompt[:0]) for name, texts in task.texts.items()}
    labels = {name: texts.labels for name, texts in task.texts.items()}
    shape = found["training"].shape[1], len(task.labels)

    def objective(flat: Array, penalty: Array) -> Array:
        weights = flat.reshape(shape)
        return _cross_entropy(found["training"] @ weights, labels["training"]) + penalty * jnp.square(weights).sum()

    gradient = jax.jit(jax.value_and_grad(objective))

    def fit(penalty: float) -> Floats:
        start = np.zeros(shape[0] * shape[1])
        found: Floats = minimize(lambda w: _float64(gradient(w, penalty)), start, jac=True, method="L-BFGS-B").x
        return found.reshape(shape)

    fits = [fit(penalty) for penalty in PENALTIES]
    validation = [_loss(found["validation"] @ weights, labels["validation"]) for weights in fits]
    best = int(np.argmin(validation))
    return Result(validation[best], accuracy(found["test"] @ fits[best], labels["test"]))


def train(task: FewShot, method: str, on_step: Callable[[], None]) -> Result:
    """What `descend` finds, on the test texts."""
    least, model = descend(task, method, on_step)
    test = task.texts["test"]
    return Result(least, accuracy(task.logits(test, model), test.labels))


def descend(task: FewShot, method: str, on_step: Callable[[], None] = lambda: None) -> tuple[float, Tree]:
    """Adam on all weights and the labels' embeddings ("fine-tuning"), or on the soft prompt ("gradient-prompt").

    Returns: the least validation loss, and the model that has it: {"params", "labels", "prompt"}, of which the prompt
        is among word embeddings [prompt_tokens, width].
    """
    whole = method == "fine-tuning"
    start: Tree = {"params": task.params, "labels": task.labels} if whole else {"prompt": task.prompt}
    given: Tree = {"prompt": task.prompt[:0]} if whole else {"params": task.params, "labels": task.labels}
    training, validation = task.texts["training"], task.texts["validation"]

    @jax.jit
    def step(trained: Tree, state: Tree, given: Tree, rate: float) -> tuple[Tree, Tree]:
        def objective(trained: Tree) -> Array:
            now = {**given, **trained}
            vectors = task.embed(now["params"], now["prompt"], training.tokens.token_ids, training.tokens.padding_mask)
            return _cross_entropy(vectors @ now["labels"].T * SIMILARITY_SCALE, training.labels)

        updates, state = optax.adam(rate).update(jax.grad(objective)(trained), state)
        return optax.apply_updates(trained, updates), state

    def validation_loss(trained: Tree) -> float:
        return _loss(task.logits(validation, {**given, **trained}), validation.labels)

    start = jax.tree.map(jnp.asarray, start)
    best, least = start, validation_loss(start)
    for rate in RATES[method]:
        trained, state = start, optax.adam(rate).init(start)
        for number in range(1, STEPS[method] + 1):
            trained, state = step(trained, state, given, rate)
            if number % CHECK == 0 and (found := validation_loss(trained)) < least:
                best, least = trained, found
            on_step()
    return least, {**given, **best}


def _cross_entropy(logits: Array | Floats, labels: Ints) -> Array:
    loss: Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss


def _loss(logits: Floats, labels: Ints) -> float:
    return float(losses("cross_entropy", logits[None], labels)[0])


def _float64(found: tuple[Array, Array]) -> tuple[float, Floats]:
    return float(found[0]), np.asarray(found[1], np.float64)
