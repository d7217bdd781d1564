"""The shipped tiny model with softmax attention, and its few-shot texts."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from secp_spu.baseline import FineTuning, GradientPromptTuning, TrainingTexts
from secp_spu.config import load_config
from secp_spu.model import Embeddings, load_checkpoint
from secp_spu.runtime import Owned
from secp_spu.tuning.task import TaskTokenizer, draw_few_shot, read_examples

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "demo.yaml")
CHECKPOINT = load_checkpoint(CONFIG.model.folder)
ENCODER = replace(CHECKPOINT.config, attention="softmax", head_activation="gelu_tanh")
"""With a smooth head: where a ReLU's input is near zero its sign is noise under MPC, and with it the gradient."""
TOKENIZER = TaskTokenizer(CONFIG.model.folder / "tokenizer.json")
PROMPT_TOKENS = 4
FINE_TUNING_RATE, PROMPT_RATE = 5e-4, 2e-2


def layers():
    """Params of the layers, without the lengths of random feature attention."""
    params = (CHECKPOINT.layer(i)["params"] for i in range(ENCODER.layers))
    return [{name: tree for name, tree in of_layer.items() if name != "attention"} for of_layer in params]


def weights():
    """What the model owner gives."""
    head = CHECKPOINT.label_word_head(TOKENIZER.label_word_ids(CONFIG.task.labels))
    return {"embeddings": embeddings(), "layers": layers(), "head": head}


def embeddings():
    """Params of the embeddings."""
    return CHECKPOINT.variables["params"]["embeddings"]


def few_shot():
    """Tokens and one-hot labels of the training texts."""
    training, _ = draw_few_shot(read_examples(CONFIG.task.pool, CONFIG.task), CONFIG.task, 0)
    labels = np.eye(2, dtype=np.float32)[[example.label for example in training]]
    return TOKENIZER.encode(training, CONFIG.task), labels


def fine_tuning(runtime):
    """A trainer of everything."""
    tokens, labels = few_shot()
    texts = TrainingTexts(tokens.token_ids, tokens.padding_mask, tokens.mask_row, labels)
    return FineTuning(
        runtime, ENCODER, Owned("model_owner", weights()), Owned("data_owner", texts), rate=FINE_TUNING_RATE
    )


def prompt_tuning(runtime):
    """A trainer of the prompt."""
    tokens, labels = few_shot()
    table = embeddings()["word"]["embedding"]
    embed = Embeddings(ENCODER)
    hidden = embed.apply({"params": embeddings()}, table[tokens.token_ids], first_position=PROMPT_TOKENS)
    ones = np.ones((len(labels), PROMPT_TOKENS), np.float32)
    rows = [
        np.concatenate([first, row], 1) for first, row in ((ones, tokens.padding_mask), (0 * ones, tokens.mask_row))
    ]
    texts = TrainingTexts(np.asarray(hidden), *rows, labels)
    return GradientPromptTuning(
        runtime,
        ENCODER,
        Owned("model_owner", weights()),
        Owned("data_owner", embeddings()),
        Owned("data_owner", np.float32(table[:PROMPT_TOKENS])),
        Owned("data_owner", texts),
        rate=PROMPT_RATE,
    )
