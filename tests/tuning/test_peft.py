"""Adapters that Hugging Face PEFT loads, and that it wrote; there and here a prompt has the same logits."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from models import RFA_MODEL
from safetensors.numpy import load_file, save_file
from small_decoder import write_decoder
from small_runs import LABELS, SMALL, predict_texts

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config, save_config
from secp_spu.errors import ConfigError
from secp_spu.model import load_checkpoint, load_transformer_config, save_checkpoint
from secp_spu.tuning import SoftPrompt, export_peft, load_peft, save_peft, save_prompt
from secp_spu.tuning.task import TaskTokenizer, read_texts

PROMPT = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
ENCODER = load_transformer_config(RFA_MODEL)
TEXTS = ("the curry was good", "i hated the salad and the pasta", "the visit")

# Logits are below 20; two orders of adding up to 512 products, in two layers and a head of some twenty steps, differ by
# 20 * 20 * sqrt(512) * 2**-24 = 5e-4. Another prompt moves them by some units.
ROUNDING = 5e-4


def adapter(folder, **changes):
    """Write an adapter whose configuration has changes."""
    save_peft(folder, PROMPT, ENCODER)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_adapter_survives_a_folder(tmp_path):
    np.testing.assert_array_equal(load_peft(adapter(tmp_path / "adapter")).start, PROMPT)


def test_half_precision_is_read(tmp_path):
    folder = adapter(tmp_path / "adapter")
    save_file({"prompt_embeddings": PROMPT.astype(np.float16)}, folder / "adapter_model.safetensors")
    np.testing.assert_array_equal(load_peft(folder).start, PROMPT.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type is 'LORA', but only an adapter of PROMPT_TUNING is a soft prompt"),
        ({"num_transformer_submodules": 2}, "the adapter is for encoder and decoder"),
    ],
)
def test_another_kind_of_adapter_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_peft(adapter(tmp_path / "adapter", **changes))


def test_a_damaged_adapter_is_refused_by_its_file(tmp_path):
    folder = adapter(tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    for damage in (lambda: weights.write_bytes(b"no"), weights.unlink):
        damage()
        with pytest.raises(ConfigError, match=r"adapter_model.safetensors holds no tensor prompt_embeddings"):
            load_peft(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config.json cannot be read, so that its folder is no PEFT adapter"):
        load_peft(folder)


def test_nothing_is_written_over(tmp_path):
    folder = adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="adapter is not empty: choose another folder"):
        save_peft(folder, PROMPT, ENCODER)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file: choose another folder"):
        save_peft(tmp_path / "file", PROMPT, ENCODER)


def run_of(folder, prompt, *settings):
    """A finished run's folder with this prompt."""
    folder.mkdir()
    save_config(
        load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", f"model.folder={RFA_MODEL}", *settings]),
        folder / "config.yaml",
    )
    save_prompt(folder / "prompt.safetensors", prompt)
    return folder


def test_a_prompt_in_terms_of_words_is_exported_whole(tmp_path):
    """By who has the table: the model owner, of a run whose data owner has none."""
    prompt = SoftPrompt(np.array([5, 9, 9, 700]), PROMPT)
    export_peft(run_of(tmp_path / "run", prompt, "model.embedding=private"), tmp_path / "adapter")
    words = load_checkpoint(RFA_MODEL).variables["params"]["embeddings"]["word"]["embedding"]
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
    np.testing.assert_array_equal(written, prompt.vectors(words))


@pytest.fixture(scope="module", params=["roberta", "bert"])
def softmax_model(request, tmp_path_factory):
    """The weights with softmax and GELU, which transformers knows for both; BERT counts positions from 0."""
    folder, checkpoint = tmp_path_factory.mktemp("model"), load_checkpoint(RFA_MODEL)
    config = replace(checkpoint.config, attention="softmax", activation="gelu")
    if request.param == "bert":
        config = replace(config, position_offset=0)
    flat = flatten_dict(checkpoint.variables["params"])
    params = unflatten_dict({path: leaf for path, leaf in flat.items() if path[-1] != "length"})
    save_checkpoint(
        folder,
        config,
        {"params": params},
        checkpoint.head,
        model_type=request.param,
        tokenizer_json=RFA_MODEL / "tokenizer.json",
    )
    return folder


@pytest.mark.usefixtures("pytorch")
@pytest.mark.parametrize("head", [(), LABELS], ids=["label-words", "label-embeddings"])
def test_peft_computes_the_same_logits(softmax_model, tmp_path, head):
    """Of texts of several lengths, by each head, and without the prompt others."""
    check_logits(tmp_path, PROMPT, softmax_model, *head)


@pytest.mark.usefixtures("pytorch")
# transformers' `generate` always passes position ids, which PEFT ignores
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning:peft")
def test_peft_computes_a_decoder_s_logits_and_goes_on_from_them(tmp_path):
    """Its task type is CAUSAL_LM, with which PEFT generates text, too, behind the prompt."""
    model = write_decoder(tmp_path, "softmax")
    tokens = check_logits(tmp_path, PROMPT[:, :16], model)
    wrapped = adapted(model, tmp_path / "adapter")
    ids, mask = inputs(tokens)
    written = []
    for row, length in enumerate(tokens.padding_mask.sum(1).astype(int)):
        text = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        ended = wrapped.generate(**text, max_new_tokens=1, do_sample=False, pad_token_id=0)
        written.append(ended[0, -1].item())
    likeliest, without = (word_logits(model, f, tokens).argmax(1).tolist() for f in (tmp_path / "adapter", None))
    assert written == likeliest != without


def check_logits(folder, prompt, model, *head):
    """A run's logits are those of PEFT with the exported prompt, and others without; returns the texts' tokens."""
    run = run_of(folder / "run", SoftPrompt.of_vectors(prompt), f"model.folder={model}", *head)
    texts = folder / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    ours, _ = predict_texts(run, texts, folder / "out.jsonl")
    export_peft(run, folder / "adapter")
    section = load_config(run / "config.yaml").task
    tokenizer = TaskTokenizer(model / "tokenizer.json", causal=load_transformer_config(model).causal)
    tokens = tokenizer.encode(read_texts(texts, section), section)
    if head:
        labels = pooled(model, None, tokenizer.encode_descriptions(section))
        theirs = [20 * pooled(model, adapter, tokens) @ labels.T for adapter in (folder / "adapter", None)]
    else:
        words = tokenizer.label_word_ids(section.labels)
        theirs = [word_logits(model, adapter, tokens)[:, words] for adapter in (folder / "adapter", None)]
    np.testing.assert_allclose(theirs[0], ours, atol=ROUNDING)
    assert np.abs(theirs[1] - ours).max() > 100 * ROUNDING
    return tokens


def word_logits(model, folder, tokens):
    """Logits of all words where a text is read [texts, vocabulary]; folder: of an adapter, None for no prompt."""
    import torch

    ids, mask = inputs(tokens)
    with torch.no_grad():
        logits = adapted(model, folder)(input_ids=ids, attention_mask=mask).logits
    return logits[:, -ids.shape[1] :][torch.tensor(tokens.mask_row).bool()].numpy()


def pooled(model, folder, tokens):
    """Mean embeddings of texts, of length 1 [texts, width]; of labels' texts, too, which have no prompt before them."""
    import torch
    import transformers

    ids, mask = inputs(tokens)
    with torch.no_grad():
        module = adapted(model, folder, transformers.AutoModel)
        hidden = module(input_ids=ids, attention_mask=mask).last_hidden_state
    mask = torch.cat([torch.ones(len(mask), hidden.shape[1] - mask.shape[1]), mask], 1)
    return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=-1).numpy()


def inputs(tokens):
    """Token ids and padding mask, for transformers."""
    import torch

    return torch.tensor(tokens.token_ids).long(), torch.tensor(tokens.padding_mask)


def adapted(model, folder, kind=None):
    """The model in transformers, with an adapter unless folder is None; kind: by default that with the word head."""
    import transformers
    from peft import PeftModel

    causal = load_transformer_config(model).causal
    kind = kind or (transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM)
    module = kind.from_pretrained(model)
    return (module if folder is None else PeftModel.from_pretrained(module, folder)).eval()


@pytest.mark.usefixtures("pytorch")
def test_an_adapter_that_peft_wrote_is_read(softmax_model, tmp_path):
    import peft
    import transformers

    model = transformers.AutoModelForMaskedLM.from_pretrained(softmax_model)
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path)
    expected = wrapped.get_prompt(batch_size=1)[0].detach().numpy()
    np.testing.assert_array_equal(load_peft(tmp_path).start, expected)
