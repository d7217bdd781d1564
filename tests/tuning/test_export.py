"""Exporting a prompt: an adapter as a whole or none, and what transformers lacks is said."""

from dataclasses import replace
from pathlib import Path

import pytest
from passes import ENCODER

from secp_spu.cli import prompt_commands as cli_prompt
from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.model import load_embeddings
from secp_spu.tuning import load_peft, save_peft

VECTORS = load_embeddings(load_config(DEMO_CONFIG).model.folder)[1]["word"]["embedding"][:4]


def test_half_an_adapter_is_not_left_behind(tmp_path, monkeypatch):
    """Or the same call again would be refused for it."""

    move = Path.replace

    def fail(path, target):
        if target.name == "adapter_config.json":  # the second file
            raise OSError(28, "No space left on device")
        return move(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(ConfigError, match="adapter cannot be written: .*No space left"):
            save_peft(tmp_path / "adapter", VECTORS, ENCODER)
    assert list((tmp_path / "adapter").iterdir()) == []
    save_peft(tmp_path / "adapter", VECTORS, ENCODER)
    assert (load_peft(tmp_path / "adapter").start == VECTORS).all()


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"activation": "relu"}, "attention fourier,"),
        ({}, "attention fourier and activation quadratic,"),
        ({"attention": "softmax"}, "activation quadratic,"),
        ({"attention": "softmax", "activation": "relu"}, None),
    ],
)
def test_what_transformers_does_not_know_is_said(tmp_path, monkeypatch, capsys, changes, unknown):
    monkeypatch.setattr(cli_prompt, "export_peft", lambda *_: replace(ENCODER, **changes))
    cli_prompt.export(tmp_path / "run", tmp_path / "adapter")
    said = capsys.readouterr().out
    assert (f"the prompt was tuned with {unknown} which transformers does not know" in said) == (unknown is not None)
    assert ("note:" in said) == (unknown is not None)
