"""Tuning from end to end: secure and plaintext runs agree, and a stopped run goes on as if it had not stopped."""

import json

import jax
import numpy as np
import pytest

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.progress import Progress
from secp_spu.protocol import CosineCorrelation
from secp_spu.runtime import LocalRuntime, PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, load_prompt, make_runtime, set_up, tune

SMALL = (
    "task.shots=2",
    "task.validation_shots=2",
    "task.test_examples=6",
    "tuning.population=4",
    "tuning.generations=3",
    "tuning.seed=4",
)

MPC_ERROR = 0.03
"""Between a candidate's loss under MPC and in plaintext. A cosine is off by 1e-3 (RMS); a head averages 16 of them over
some twenty tokens, and a reciprocal is off by 1e-3 at most; two layers and a head with weights of a few units make a
few 1e-3 of a logit of that, and the cross-entropy moves by at most twice its logits. Seen: 8e-3 in 96 evaluations."""


def _run(folder, *settings, stop_after=None):
    """Tune with small settings, perhaps stopped after some generations, and return the record."""
    config = load_config(DEMO_CONFIG, [*SMALL, *settings])
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=folder.exists())
        model_owner = runtime.actor("model_owner", ModelOwner, config)
        tune(set_up(runtime, config, owner, model_owner, _Stopper(stop_after)))
    return RunRecord.load(folder)


class _Stopper(Progress):
    """Keeps the lines, and interrupts after that of a generation."""

    def __init__(self, stop_after=None):
        self.lines = []
        self._stop_after = stop_after

    def line(self, text):
        self.lines.append(text)
        if self._stop_after is not None and text.startswith(f"generation {self._stop_after:3d}:"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def plaintext(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("runs") / "plaintext", "protocol=plaintext")


@pytest.fixture(scope="module")
def secure_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "secure"
    _run(folder)
    return folder


@pytest.mark.slow("MPC leaves the search as it is; a whole run under MPC")
def test_secure_tuning_proposes_the_candidates_of_plaintext_tuning(plaintext, secure_folder):
    secure = RunRecord.load(secure_folder)
    for one, other in zip(plaintext.generations, secure.generations, strict=True):
        assert np.diff(np.sort(one.losses)).min() > 2 * MPC_ERROR, "take a seed whose losses have a clear order"
        assert one.candidates == other.candidates
        np.testing.assert_allclose(one.losses, other.losses, atol=MPC_ERROR)
    assert secure.accuracy_before == plaintext.accuracy_before
    assert secure.accuracy_after == plaintext.accuracy_after


@pytest.mark.slow("a secure run's costs add up in its report; needs the run under MPC")
def test_the_outputs_are_there_and_agree(secure_folder):
    report = json.loads((secure_folder / "report.json").read_text())
    record = RunRecord.load(secure_folder)
    assert report["loss"] == [min(g.losses) for g in record.generations]
    assert report["accuracy_after"] == record.accuracy_after
    assert (report["protocol"], report["parties"]) == ("aby3", 3)
    # 4 candidates and 2 finalists a generation, 2 leaders at the end, the untuned and the tuned prompt
    assert report["forward_calls"] == 3 * 6 + 2 + 2
    for phase in ("setup", "offline", "online"):
        cost = report["ledger"][phase]
        assert cost["bytes_total"] == pytest.approx(3 * cost["bytes"])
        assert sum(op["bytes_total"] for op in cost["operations"].values()) == cost["bytes_total"] > 0
        assert cost["sends"] > 0
        assert cost["seconds"] > 0
    assert load_prompt(secure_folder / "prompt.safetensors").start.shape == (4, 64)
    for name in ("loss.png", "costs.png"):
        assert (secure_folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow("a party's view of a resumed secure run; needs that run")
def test_what_is_public_says_nothing_of_losses_or_labels(secure_folder):
    config = load_config(DEMO_CONFIG, SMALL)
    owner = DataOwner(config, secure_folder, resume=True)
    assert set(owner.public_state()) == {"generations", "tested", "seconds", "forward_calls", "ledger"}
    assert set(owner.sizes()) == {"training", "validation", "test"}


@pytest.mark.slow("CMA's replay is exact at each generation; two runs in two parts")
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(plaintext, tmp_path, stop_after):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        _run(folder, "protocol=plaintext", stop_after=stop_after)
    assert len(RunRecord.load(folder).generations) == stop_after
    resumed = _run(folder, "protocol=plaintext")
    assert resumed.generations == plaintext.generations
    assert resumed.best == plaintext.best
    assert resumed.accuracy_after == plaintext.accuracy_after


@pytest.mark.slow("it replays logits, not losses alone; two runs")
def test_gauss_newton_resumes_from_the_logits_of_its_record(tmp_path):
    settings = ["protocol=plaintext", "tuning.optimizer=gauss-newton"]
    undisturbed = _run(tmp_path / "whole", *settings)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "stopped", *settings, stop_after=1)
    resumed = _run(tmp_path / "stopped", *settings)
    assert resumed.generations == undisturbed.generations
    assert np.shape(resumed.generations[0].logits)[0] == len(resumed.generations[0].losses)


@pytest.mark.slow("a longer run has the short one's candidates; two runs")
def test_a_finished_run_grows_by_more_generations(plaintext, tmp_path):
    folder = tmp_path / "run"
    _run(folder, "protocol=plaintext", "tuning.generations=1")
    assert _run(folder, "protocol=plaintext").generations == plaintext.generations


@pytest.mark.slow("masks across a resume differ; a run under MPC")
def test_a_secure_run_resumes_with_its_costs_and_never_replays_a_mask(secure_folder, tmp_path, monkeypatch):
    folder, drawn = tmp_path / "run", []
    draw = LocalRuntime.correlations

    def remember(runtime, declared):
        made = draw(runtime, declared)
        masks = [node.mask for node in _correlations(made.tree)]
        shares = runtime._everywhere(lambda party: [party.spu.get_var(mask.name) for mask in masks])
        drawn.extend(runtime._scheme.reconstruct(parts).tobytes() for parts in zip(*shares, strict=True))
        return made

    monkeypatch.setattr(LocalRuntime, "correlations", remember)
    with pytest.raises(KeyboardInterrupt):
        _run(folder, stop_after=2)
    spent = RunRecord.load(folder).usage
    resumed = _run(folder)
    undisturbed = RunRecord.load(secure_folder)
    assert [g.candidates for g in resumed.generations] == [g.candidates for g in undisturbed.generations]
    assert len(set(drawn)) == len(drawn) >= 2 * (1 + 3 * 2 + 1)
    online, before = (u.ledger["online"]["total"]["bytes_total"] for u in (resumed.usage, spent))
    assert online > before > 0
    # the same passes in two sittings send the same bytes online
    assert online == undisturbed.usage.ledger["online"]["total"]["bytes_total"]


def _correlations(tree):
    return jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, CosineCorrelation))


@pytest.mark.slow("a drawn seed is kept and repeats the run, and no other run has it; four runs")
def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(tmp_path):
    """Were it drawn anew, the candidates would not replay, or the losses of other texts would be told."""
    folder = tmp_path / "run"
    settings = "protocol=plaintext", "tuning.seed=null"
    with pytest.raises(KeyboardInterrupt):
        _run(folder, *settings, stop_after=1)
    stopped = RunRecord.load(folder)
    resumed = _run(folder, *settings)
    assert resumed.seed == stopped.seed
    assert resumed.generations[:1] == stopped.generations
    seeded = _run(tmp_path / "seeded", "protocol=plaintext", f"tuning.seed={stopped.seed}")
    assert resumed.generations == seeded.generations
    assert json.loads((folder / "report.json").read_text())["seed"] == stopped.seed
    other = _run(tmp_path / "other", *settings)
    assert other.seed != stopped.seed
    assert other.generations != resumed.generations


@pytest.mark.slow("nothing is shown at the other parties; a run at each place")
def test_lines_are_shown_where_the_data_owner_is(tmp_path):
    """One for the untuned prompt and one a generation; elsewhere `at_home` has none, and nothing is shown."""
    config = load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", "tuning.generations=2"])
    shown = {}
    for name, runtime in (("home", PlaintextRuntime()), ("away", _Away())):
        progress = shown[name] = _Stopper()
        with runtime:
            owner = runtime.actor(DATA_OWNER, DataOwner, config, tmp_path / name, resume=False)
            tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), progress))
    assert [line.partition(":")[0] for line in shown["home"].lines] == [
        "untuned prompt",
        "generation   1",
        "generation   2",
    ]
    assert shown["away"].lines == []


class _Away(PlaintextRuntime):
    """As another party's process of a cluster, where values of the data owner are only references."""

    def at_home(self, value):
        assert value.party == DATA_OWNER


def test_candidates_that_do_not_replay_are_an_error(tmp_path):
    folder = tmp_path / "run"
    record = _run(folder, "protocol=plaintext", "tuning.generations=1")
    record.generations[0].candidates = "0" * 64
    record.save(folder)
    with pytest.raises(ConfigError, match="generation 1 come out different"):
        _run(folder, "protocol=plaintext")


def test_candidates_in_parts_give_the_losses_of_all_at_once(plaintext, tmp_path):
    parts = _run(tmp_path / "run", "protocol=plaintext", "tuning.candidates_per_call=3")
    for one, other in zip(parts.generations, plaintext.generations, strict=True):
        assert one.candidates == other.candidates
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)  # float32 sums in another order


def test_texts_and_prompt_must_fit_the_positions(tmp_path):
    with pytest.raises(ConfigError, match=r"task.max_tokens \+ tuning.prompt_tokens is 510"):
        _run(tmp_path / "run", "tuning.prompt_tokens=10", "task.max_tokens=500")
