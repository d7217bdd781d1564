"""A run's record survives its file; a folder belongs to one run."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config, save_config
from secp_spu.errors import ConfigError
from secp_spu.model import save_embeddings
from secp_spu.runtime import Ledger
from secp_spu.tuning import RunRecord, Usage, open_run
from secp_spu.tuning.contents import contents_of
from secp_spu.tuning.record import FILE_NAME, Generation

CONFIG = load_config(DEMO_CONFIG, ["tuning.seed=5"])
OTHER = load_config(DEMO_CONFIG, ["tuning.seed=6"])
UNSEEDED = load_config(DEMO_CONFIG, ["tuning.seed=null"])


def _record():
    record = RunRecord(
        "digest",
        {"pool": "print"},
        2**62 + 1,
        best=[0.1, -1e-17, 1 / 3],
        best_validation_loss=0.25,
        accuracy_before=0.5,
    )
    record.generations.append(Generation("print", [0.1 + 0.2, 1e-300], 0.25))
    record.usage = Usage(1.5, 7, Ledger(3).state())
    return record


def test_every_digit_survives(tmp_path):
    _record().save(tmp_path)
    assert RunRecord.load(tmp_path) == _record()


def test_nothing_but_the_checkpoint_is_left_behind(tmp_path):
    _record().save(tmp_path)
    _record().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_checkpoint_is_for_its_owners_eyes_alone(tmp_path):
    (tmp_path / f"{FILE_NAME}.part").write_text("of a run that was killed")
    _record().save(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"digest": "x", "contents": {}, "more": 1})])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ConfigError, match="is no checkpoint"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"seed": None},
        {"contents": None},
        {"contents": {"pool": 1}},
        {"seed": "0"},
        {"best": []},
        {"best": "x"},
        {"best_validation_loss": None},
        {"generations": []},
        {"usage": {"seconds": "x", "forward_calls": 1, "ledger": {}}},
        {"usage": {"seconds": 1.0, "forward_calls": 1, "ledger": {"x": 1}}},
        {"generations": [{"candidates": "x", "losses": [None], "validation_loss": 1.0}]},
    ],
    ids=str,
)
def test_a_checkpoint_that_no_run_writes_is_refused(tmp_path, damage):
    record = _record()
    record.usage = Usage(1.5, 7)
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record
    content = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(content | damage))
    with pytest.raises(ConfigError, match="is no checkpoint of this version, or damaged"):
        RunRecord.load(tmp_path)


def test_a_checkpoint_without_a_seed_is_refused(tmp_path):
    """Such as the version before wrote; with a seed drawn anew it would be another run."""
    _record().save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    del content["seed"]
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"is no checkpoint of this version, or damaged .*'seed'"):
        RunRecord.load(tmp_path)


def test_a_checkpoint_of_paths_instead_of_contents_is_refused_as_such(tmp_path):
    """Such as the version before wrote."""
    _record().save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    del content["contents"]
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="compared paths instead of contents: go on with that version, or start anew"):
        RunRecord.load(tmp_path)


@pytest.fixture
def own(tmp_path):
    """A configuration whose files are all in one folder, with a run that has begun, in the same folder."""
    home = tmp_path / "here"
    shutil.copytree(DEMO_CONFIG.parent, home)
    open_run(home / "run", load_config(home / "config.yaml"), resume=False).save(home / "run")
    return home


def _resume(home):
    return open_run(home / "run", load_config(home / "config.yaml"), resume=True)


def test_a_run_goes_on_after_all_its_files_have_moved(own, tmp_path):
    before = _resume(own)
    own.rename(tmp_path / "elsewhere")
    assert _resume(tmp_path / "elsewhere") == before
    for path in (tmp_path / "elsewhere" / "data").iterdir():
        path.write_text(
            "\n\n".join(json.dumps(json.loads(line), indent=None) for line in path.read_text().splitlines())
        )
    assert _resume(tmp_path / "elsewhere") == before  # the same examples


def _flip(home):
    path = home / "data" / "pool.jsonl"
    flipped = {"positive": "negative", "negative": "positive"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(row | {"label": flipped[row["label"]]}) for row in rows))


def _swap_texts(home):
    path = home / "data" / "pool.jsonl"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([second, first, *rest]))


def _change_test(home):
    path = home / "data" / "test.jsonl"
    path.write_text(path.read_text().replace('"text": "', '"text": "so ', 1))


def _change_tensor(name):
    def change(home):
        path = home / "model" / "model.safetensors"
        tensors = load_file(path)
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
        save_file(tensors, path)

    return change


def _change_vocabulary(home):
    path = home / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(content))


def _change_features(home):
    path = home / "model" / "config.json"
    path.write_text(path.read_text().replace('"feature_seed": 0', '"feature_seed": 1'))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (_flip, r"task\.pool"),
        (_swap_texts, r"task\.pool"),
        (_change_test, r"task\.test"),
        (_change_tensor("bert.encoder.layer.0.output.dense.bias"), r"model\.folder \(weights\)"),
        (
            _change_tensor("bert.embeddings.position_embeddings.weight"),
            r"model\.folder \(embedding table `position`\)",
        ),
        (_change_vocabulary, r"model\.folder \(tokenizer\.json\)"),
        (_change_features, r"model\.folder \(config\.json\)"),
    ],
)
def test_a_run_does_not_go_on_with_other_contents(own, change, place):
    change(own)
    with pytest.raises(
        ConfigError, match=f"^{place} does not hold what it held when the run in .* began: put that back"
    ):
        _resume(own)


def test_a_run_goes_on_where_the_data_owner_has_the_tables_alone(own):
    """As in a cluster, after one process began it; the weights are the model owner's then."""
    save_embeddings(own / "model", own / "given")
    shutil.rmtree(own / "model")
    (own / "given").rename(own / "model")
    assert "weights" in _resume(own).contents


def test_a_new_folder_is_made_and_claimed(tmp_path):
    folder = tmp_path / "a" / "b"
    open_run(folder, CONFIG, resume=False).save(folder)
    with pytest.raises(ConfigError, match="holds this run already: add `resume`"):
        open_run(folder, CONFIG, resume=False)
    with pytest.raises(ConfigError, match="holds another run already: choose another folder"):
        open_run(folder, OTHER, resume=False)
    with pytest.raises(ConfigError, match="another configuration: choose another folder"):
        open_run(folder, OTHER, resume=True)
    assert open_run(folder, CONFIG, resume=True) == RunRecord(CONFIG.digest(), contents_of(CONFIG), 5)


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("tuning.population=9", "tuning.population was 6, now it is 9"),
        ("tuning.seed=6", "tuning.seed was 5, now it is 6"),
        ("protocol=plaintext", 'protocol was "aby3", now it is "plaintext"'),
        ("tuning.initial_prompt={words: the food}", 'tuning.initial_prompt.words was null, now it is "the food"'),
        (
            'task.labels={"positive": " good", "negative": " bad"}',
            r'task.labels was \{"negative": .*\}, now it is \{"positive": " good", "negative": " bad"\}',
        ),
    ],
)
def test_the_key_that_makes_it_another_run_is_named(tmp_path, setting, difference):
    open_run(tmp_path, CONFIG, resume=False).save(tmp_path)
    save_config(CONFIG, tmp_path / "config.yaml")
    other = load_config(DEMO_CONFIG, ["tuning.seed=5", setting])
    for resume, what in ((False, "another run already"), (True, "a run of another configuration")):
        with pytest.raises(ConfigError, match=rf"holds {what} \({difference}\): choose another folder"):
            open_run(tmp_path, other, resume=resume)


def test_the_digest_decides_whatever_the_folders_configuration_says(tmp_path):
    open_run(tmp_path, CONFIG, resume=False).save(tmp_path)
    save_config(OTHER, tmp_path / "config.yaml")
    assert open_run(tmp_path, CONFIG, resume=True).seed == 5
    with pytest.raises(ConfigError, match="another configuration: choose another folder"):
        open_run(tmp_path, OTHER, resume=True)


def test_opening_claims_nothing(tmp_path):
    """The command looks before the data owner does."""
    folder = tmp_path / "run"
    open_run(folder, CONFIG, resume=False)
    assert not folder.exists()


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        open_run(tmp_path, CONFIG, resume=False)
    with pytest.raises(ConfigError, match="is a file"):
        open_run(tmp_path / "mine.txt", CONFIG, resume=False)
    with pytest.raises(ConfigError, match="no run to resume"):
        open_run(tmp_path, CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_configurations_seed_is_the_runs(tmp_path):
    assert open_run(tmp_path, CONFIG, resume=False).seed == 5


def test_without_a_seed_every_new_run_draws_one_and_keeps_it(tmp_path):
    """Chance of a false alarm: 2**-63 for two that are the same."""
    first = open_run(tmp_path, UNSEEDED, resume=False)
    assert 0 <= first.seed < 2**63
    assert open_run(tmp_path, UNSEEDED, resume=False).seed != first.seed
    first.save(tmp_path)
    assert open_run(tmp_path, UNSEEDED, resume=True) == first


@pytest.mark.parametrize(("recorded", "now"), [(UNSEEDED, CONFIG), (CONFIG, UNSEEDED)], ids=["added", "removed"])
def test_a_seed_is_not_added_to_a_run_or_removed(tmp_path, recorded, now):
    open_run(tmp_path, recorded, resume=False).save(tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        open_run(tmp_path, now, resume=True)


def test_a_checkpoint_of_a_version_without_second_evaluations_is_read(tmp_path):
    """Its best was evaluated once, and stays the best until a better one is confirmed."""
    record = _record()
    record.save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    for key in ("pending", "pending_loss", "pending_again", "stopped"):
        del content[key]
    for generation in content["generations"]:
        del generation["implausible"], generation["notes"]
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    read = RunRecord.load(tmp_path)
    assert read == record
    assert read.selected == (record.best, record.best_validation_loss)


@pytest.mark.parametrize("damage", [{"pending": [1.0]}, {"pending_loss": 0.1}, {"pending": [1.0], "pending_loss": 0.1}])
def test_a_pending_point_without_its_loss_or_of_another_length_is_refused(tmp_path, damage):
    _record().save(tmp_path)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(content | damage))
    with pytest.raises(ConfigError, match="is no checkpoint"):
        RunRecord.load(tmp_path)
