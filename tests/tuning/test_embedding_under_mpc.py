"""`model.embedding: private`: the run of a data owner that has no table is the run of one that has them."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import LABELS, PRIVATE, SMALL

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.model import load_embeddings
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, make_runtime, set_up, tune
from secp_spu.tuning.programs import audit_config

MPC_ERROR = 0.03
"""Between a candidate's loss under MPC and in plaintext, see test_tune; embeddings add 1e-4 at most to inputs that the
first layer's normalisation takes in the same size."""


def _run(folder, *settings, home=None):
    """Tune; the data owner reads its part of the model in another folder, `home`, if there is one."""
    config = load_config(DEMO_CONFIG, [*SMALL, "tuning.seed=4", *settings])
    with make_runtime(config) as runtime:
        of_owner = config
        if home:
            of_owner = config.model_copy(update={"model": config.model.model_copy(update={"folder": home})})
        owner = runtime.actor(DATA_OWNER, DataOwner, of_owner, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
    return RunRecord.load(folder)


@pytest.fixture
def home(tmp_path):
    """All of the model that the data owner needs: no tensor is among it."""
    source, folder = load_config(DEMO_CONFIG).model.folder, tmp_path / "home"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(source / name, folder / name)
    return folder


@pytest.mark.slow("private embeddings give the public losses, both heads; six runs")
@pytest.mark.parametrize("head", [(), LABELS], ids=["label-words", "label-embeddings"])
def test_plaintext_runs_are_the_same(tmp_path, home, head):
    """But for float32 sums in another order; the control: another seed's losses are not."""
    public = _run(tmp_path / "public", "protocol=plaintext", *head)
    private = _run(tmp_path / "private", "protocol=plaintext", PRIVATE, *head, home=home)
    for one, other in zip(public.generations, private.generations, strict=True):
        assert one.candidates == other.candidates
        np.testing.assert_allclose(one.losses, other.losses, atol=1e-4)
    assert public.accuracy_after == private.accuracy_after
    other = _run(tmp_path / "other", "protocol=plaintext", PRIVATE, "tuning.seed=3", *head)
    assert np.abs(np.subtract(other.generations[0].losses, public.generations[0].losses)).max() > 1e-3


@pytest.mark.slow("words and shift add up to the prompt tuned; two runs")
def test_the_saved_prompt_is_whole_with_the_model_owners_table(tmp_path, home):
    _run(tmp_path / "public", "protocol=plaintext")
    config = load_config(DEMO_CONFIG, SMALL)
    _run(tmp_path / "private", "protocol=plaintext", PRIVATE, home=home)
    saved, whole = (load_file(tmp_path / name / "prompt.safetensors") for name in ("private", "public"))
    words = load_embeddings(config.model.folder)[1]["word"]["embedding"]
    combined = words[saved["initial_tokens"]] + words.std() * saved["shift"]
    np.testing.assert_allclose(combined, whole["prompt"], atol=1e-5)


@pytest.mark.slow("look-ups of secret words within a real run; a run under MPC")
def test_under_mpc_it_is_the_run_of_plaintext(tmp_path, home):
    plaintext = _run(tmp_path / "plaintext", "protocol=plaintext")
    secure = _run(tmp_path / "secure", PRIVATE, home=home)
    for one, other in zip(plaintext.generations, secure.generations, strict=True):
        assert one.candidates == other.candidates
        np.testing.assert_allclose(one.losses, other.losses, atol=MPC_ERROR)
    programs = json.loads((tmp_path / "secure" / "report.json").read_text())["ledger"]
    # Texts are looked up once, in set-up; prompts are put together in every pass.
    assert {"look_up", "embed"} <= programs["setup"]["programs"].keys()
    assert "embed_prompts" in programs["online"]["programs"]
    assert not {"look_up", "embed"} & programs["online"]["programs"].keys()


def test_no_word_embedding_is_left_after_set_up(tmp_path):
    config = load_config(DEMO_CONFIG, [*SMALL, PRIVATE, "protocol=plaintext"])
    with PlaintextRuntime() as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, tmp_path / "run", resume=False)
        set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        vocabulary = 781
        assert not [value for value in runtime._values.values() if vocabulary in value.shape]


@pytest.mark.slow("look-ups open nothing; compiles all programs twice")
@pytest.mark.parametrize("head", [(), LABELS], ids=["label-words", "label-embeddings"])
def test_every_program_is_audited_and_the_new_ones_open_nothing(head):
    programs = audit_config(load_config(DEMO_CONFIG, [*SMALL, PRIVATE, *head])).programs
    by_program = {program.name: program.audit.openings for program in programs}
    assert {"look_up", "embed", "embed_prompts", "layer"} <= by_program.keys()
    assert not any(by_program[name] for name in ("look_up", "embed", "embed_prompts"))
