"""Adapters that Hugging Face PEFT loads, and that it wrote; there and here a prompt has the same logits."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from passes import ENCODER
from runs import LABELS, SMALL, predict_texts
from safetensors.numpy import load_file, save_file

from secp_spu.cli import DEMO_CONFIG
from secp_spu.config import ConfigError, load_config, save_config
from secp_spu.model import load_checkpoint, save_checkpoint
from secp_spu.tuning import SoftPrompt, export_peft, load_peft, save_peft, save_prompt
from secp_spu.tuning.task import TaskTokenizer, read_texts

PROMPT = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
MODEL = load_config(DEMO_CONFIG).model.folder
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
    save_config(load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", *settings]), folder / "config.yaml")
    save_prompt(folder / "prompt.safetensors", prompt)
    return folder


def test_a_prompt_in_terms_of_words_is_exported_whole(tmp_path):
    """By who has the table: the model owner, of a run whose data owner has none."""
    prompt = SoftPrompt(np.array([5, 9, 9, 700]), PROMPT)
    export_peft(run_of(tmp_path / "run", prompt, "model.embedding=private"), tmp_path / "adapter")
    words = load_checkpoint(MODEL).variables["params"]["embeddings"]["word"]["embedding"]
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
    np.testing.assert_array_equal(written, prompt.vectors(words))


@pytest.fixture(scope="module", params=["roberta", "bert"])
def softmax_model(request, tmp_path_factory):
    """The demo's weights with softmax and GELU, which transformers knows for both; BERT counts positions from 0."""
    folder, checkpoint = tmp_path_factory.mktemp("model"), load_checkpoint(MODEL)
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
        tokenizer_json=MODEL / "tokenizer.json",
    )
    return folder


@pytest.mark.parametrize("head", [(), LABELS], ids=["label-words", "label-embeddings"])
def test_peft_computes_the_same_logits(softmax_model, tmp_path, head):
    """Of texts of several lengths, by each head, and without the prompt others."""
    settings = f"model.folder={softmax_model}", *head
    run = run_of(tmp_path / "run", SoftPrompt.of_vectors(PROMPT), *settings)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    ours, _ = predict_texts(run, texts, tmp_path / "out.jsonl")
    export_peft(run, tmp_path / "adapter")
    theirs = peft_logits if not head else peft_similarities
    section = load_config(run / "config.yaml").task
    np.testing.assert_allclose(theirs(softmax_model, tmp_path / "adapter", texts, section), ours, atol=ROUNDING)
    assert np.abs(theirs(softmax_model, None, texts, section) - ours).max() > 100 * ROUNDING


def _real():
    """PyTorch, transformers and PEFT; a build of PyTorch for GPUs cannot be imported without their libraries."""
    try:
        import torch
    except (ImportError, OSError, ValueError) as error:
        pytest.skip(f"PyTorch is not installed, or not for CPUs: {error}")
    return torch, pytest.importorskip("transformers"), pytest.importorskip("peft")


def peft_logits(model, folder, texts, section):
    """Logits of the label words at the mask, by transformers and PEFT; folder: of an adapter, None for no prompt."""
    torch, transformers, _ = _real()
    tokenizer = TaskTokenizer(model / "tokenizer.json")
    tokens = tokenizer.encode(read_texts(texts, section), section)
    outputs = _outputs(transformers.AutoModelForMaskedLM, model, folder, tokens).logits
    of_text = outputs[:, -section.max_tokens :]
    words = tokenizer.label_word_ids(section.labels)
    return of_text[torch.tensor(tokens.mask_row).bool()][:, words].numpy()


def peft_similarities(model, folder, texts, section):
    """Similarities of pooled embeddings to those of the labels, which have no prompt before them."""
    torch, transformers, _ = _real()
    tokenizer = TaskTokenizer(model / "tokenizer.json")

    def pooled(folder, tokens):
        hidden = _outputs(transformers.AutoModel, model, folder, tokens).last_hidden_state
        mask = torch.tensor(tokens.padding_mask)
        mask = torch.cat([torch.ones(len(mask), hidden.shape[1] - mask.shape[1]), mask], 1)
        return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=-1)

    labels = pooled(None, tokenizer.encode_descriptions(section))
    return (20 * pooled(folder, tokenizer.encode(read_texts(texts, section), section)) @ labels.T).numpy()


def _outputs(kind, model, folder, tokens):
    import torch
    from peft import PeftModel

    module = kind.from_pretrained(model)
    if folder is not None:
        module = PeftModel.from_pretrained(module, folder)
    with torch.no_grad():
        ids, mask = torch.tensor(tokens.token_ids).long(), torch.tensor(tokens.padding_mask)
        return module.eval()(input_ids=ids, attention_mask=mask)


def test_an_adapter_that_peft_wrote_is_read(softmax_model, tmp_path):
    _, transformers, peft = _real()
    model = transformers.AutoModelForMaskedLM.from_pretrained(softmax_model)
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path)
    expected = wrapped.get_prompt(batch_size=1)[0].detach().numpy()
    np.testing.assert_array_equal(load_peft(tmp_path).start, expected)
