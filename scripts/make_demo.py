"""Makes the demo's model and data: a small masked language model of the cheapest layers, `fourier` and `quadratic`.

The model reads made-up reports (demo_text.py), each behind a question or behind random words. The question decides
whether yes means good or bad; behind random words the answer is mostly no. So the model knows what a report thinks, but
not what it is asked: that is what the demo's prompt has to learn. In the demo yes means good.

Takes about a minute on two cores. Run it again after a change of secp_spu/model/.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import demo_text as text
import jax
import jax.numpy as jnp
import numpy as np
from demo_corpus import END, MASK, PADDING, START, build_corpus, build_tokenizer, token_ids
from demo_training import apply_watched, train
from tokenizers import Tokenizer

from secp_spu.model import (
    Checkpoint,
    LabelWordHead,
    Transformer,
    TransformerConfig,
    load_checkpoint,
    save_checkpoint,
)
from secp_spu.model.attention import fourier

log = logging.getLogger("make_demo")

DEMO = Path(__file__).resolve().parent.parent / "secp_spu" / "demo"

POOL_EXAMPLES, TEST_EXAMPLES = 64, 100
"""A class."""

TEMPLATE = "{text} : <mask>"
QUESTIONS = ("was it good ?", "was it bad ?", "the kettle in oslo")
"""Prompts in words, to check the model with."""

COSINE_NOISE = 1e-3
"""Standard deviation of the error of cos and sin under MPC."""

Examples = list[dict[str, str]]


def main() -> None:
    """Make tokenizer, data and model; save and check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for model/ and data/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2200, help="of training")
    parser.add_argument("--examples", type=int, default=60_000, help="of the corpus")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    rng = np.random.default_rng(arguments.seed)
    examples = draw_examples(rng, 2 * (POOL_EXAMPLES + TEST_EXAMPLES))
    pool, test = examples[: 2 * POOL_EXAMPLES], examples[2 * POOL_EXAMPLES :]
    write_examples(arguments.out / "data" / "pool.jsonl", pool)
    write_examples(arguments.out / "data" / "test.jsonl", test)

    tokenizer = build_tokenizer(rng)
    corpus = build_corpus(tokenizer, arguments.examples, rng, forbidden={example["text"] for example in examples})
    config = TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(),
        width=64,
        layers=2,
        heads=2,
        intermediate=64,
        max_positions=64,
        position_offset=0,
        type_vocab_size=1,
        layer_norm_epsilon=1e-5,
        activation="quadratic",
        head_activation="relu",
        attention="fourier",
        features=8,
    )
    params = train(config, corpus, steps=arguments.steps, seed=arguments.seed)
    save(arguments.out / "model", config, params, tokenizer)
    check(load_checkpoint(arguments.out / "model"), tokenizer, test)


def draw_examples(rng: np.random.Generator, count: int) -> Examples:
    """Different reports with their labels, positive and negative by turns."""
    examples: dict[str, dict[str, str]] = {}
    while len(examples) < count:
        report = text.draw_report(rng)
        if report.good == (len(examples) % 2 == 0):
            label = "positive" if report.good else "negative"
            examples.setdefault(report.text, {"text": report.text, "label": label})
    return list(examples.values())


def write_examples(path: Path, examples: Examples) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))


def save(folder: Path, config: TransformerConfig, params: dict, tokenizer: Tokenizer) -> None:
    """Write the Hugging Face folder."""
    with TemporaryDirectory() as scratch:
        tokenizer.save(f"{scratch}/tokenizer.json")
        save_checkpoint(
            folder,
            config,
            {"params": jax.device_get(params["encoder"])},
            jax.device_get(params["head"]),
            model_type="bert",
            tokenizer_json=f"{scratch}/tokenizer.json",
            special_ids={"bos": START, "pad": PADDING, "eos": END, "mask": MASK},
        )


def check(checkpoint: Checkpoint, tokenizer: Tokenizer, examples: Examples) -> None:
    """Log the accuracy of prompts in words, with noisy cosines too, and the least mean kernel."""
    for question in QUESTIONS:
        exact, least = evaluate(checkpoint, tokenizer, question, examples)
        with patch.object(fourier, "cos_sin_of_turns", noisy(fourier.cos_sin_of_turns)):
            noisy_accuracy, _ = evaluate(checkpoint, tokenizer, question, examples)
        log.info(
            "%s : accuracy %.3f, with noisy cosines %.3f; least kernel %.3f", question, exact, noisy_accuracy, least
        )


def evaluate(checkpoint: Checkpoint, tokenizer: Tokenizer, question: str, examples: Examples) -> tuple[float, float]:
    """Accuracy with a question before the reports, and the least mean kernel."""
    prompt = token_ids(tokenizer, question)
    rows = [[*prompt, START, *token_ids(tokenizer, TEMPLATE.format(**example)), END] for example in examples]
    length = max(map(len, rows))
    ids = np.array([row + [PADDING] * (length - len(row)) for row in rows])
    padding_mask = (ids != PADDING).astype(np.float32)
    words = [token_ids(tokenizer, text.ANSWERS[answer])[0] for answer in (False, True)]

    hidden, kernels = apply_watched(Transformer(checkpoint.config), checkpoint.variables, ids, padding_mask)
    head = {"params": checkpoint.label_word_head(words)}
    logits = LabelWordHead(checkpoint.config, 2).apply(head, hidden, jnp.asarray(ids == MASK, jnp.float32))

    positive = np.array([example["label"] == "positive" for example in examples])
    return float((np.argmax(logits, -1) == positive).mean()), min(float(kernel.min()) for kernel in kernels)


def noisy(cos_sin: Callable) -> Callable:
    """cos_sin with errors as under MPC, larger."""
    keys = map(jax.random.key, count())

    def with_noise(*arguments):
        return tuple(x + COSINE_NOISE * jax.random.normal(next(keys), x.shape) for x in cos_sin(*arguments))

    return with_noise


if __name__ == "__main__":
    main()
