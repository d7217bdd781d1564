"""Logits that cannot be right are not taken, a new best is evaluated twice, and a search without a slope ends."""

import json

import numpy as np
import pytest
from corrupting import Corrupting, perfect
from small_runs import SMALL

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import RuntimeFailure
from secp_spu.progress import Progress
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, losses, make_runtime, set_up, tune
from secp_spu.tuning.driver import confirm_best, run_generation
from secp_spu.tuning.logits import AGREEMENT, LARGEST_LIMIT, check_limit, plausible

GENERATIONS = 6
UNTUNED = 1  # openings before the first generation; then training and validation logits of each
LIMIT = 32.0  # of the demo's model


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def _config(*settings):
    """Of a run whose prompts differ by enough for a second evaluation to tell."""
    small = [*SMALL, "protocol=plaintext", "tuning.seed=6", f"tuning.generations={GENERATIONS}"]
    return load_config(DEMO_CONFIG, [*small, *settings])


def _run(folder, *settings, changes=None, resume=False):
    """Tune with corrupted openings; returns the record and the lines."""
    config, progress = _config(*settings), Lines()
    with Corrupting(changes or {}) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=resume)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), progress))
    return RunRecord.load(folder), progress.lines


def _labels(folder, split):
    return DataOwner(_config(), folder, resume=False)._texts[split].labels


def _training(generation):
    return UNTUNED + 2 * (generation - 1)


def _validation(generation):
    return _training(generation) + 1


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return {split: _labels(folder, split) for split in ("training", "validation")}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("runs") / "honest")[0]


def _true_loss(folder, point):
    """The validation loss of a point, evaluated anew."""
    config = _config()
    with make_runtime(config) as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=True)
        session = set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        owner._instance._finalists = np.array([point, point])
        (opened,) = session.logits("finalists", 0, 1, "validation")
        return losses("cross_entropy", opened.value[None], owner._instance._texts["validation"].labels)[0]


def test_huge_logits_of_a_candidate_and_a_finalist_are_not_taken(labels, tmp_path):
    changes = {
        _training(1): perfect(labels["training"], 1e6, 1),
        _validation(1): perfect(labels["validation"], 1e6, 0),
    }
    record, lines = _run(tmp_path / "run", changes=changes)
    first = record.generations[0]
    assert first.implausible == [1]
    assert first.losses[1] == max(np.delete(first.losses, 1)) > 0.1
    assert first.notes == ["a finalist's logits were implausible"]
    assert "implausible logits of 1 of 4 candidates were not taken" in lines[1]
    assert min(g.validation_loss for g in record.generations) > 0.05
    point, loss = record.selected
    assert loss == pytest.approx(_true_loss(tmp_path / "run", point), abs=1e-5)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["implausible_candidates"] == 1
    assert report["notes"] == first.notes
    assert report["best_validation_loss"] == loss


@pytest.mark.slow("one false best is caught wherever it falls; whole runs")
@pytest.mark.parametrize("wrong", [1, 3, GENERATIONS])
def test_a_perfect_loss_of_a_plausible_size_does_not_stay_the_best(labels, tmp_path, wrong):
    """Only a second evaluation can tell: in the next generation, or for the last one at the end of the run."""
    changes = {_validation(wrong): perfect(labels["validation"], LIMIT / 2, 0)}
    record, lines = _run(tmp_path / "run", changes=changes)
    assert record.generations[wrong - 1].validation_loss < 1e-6, "take a generation in which it is tried"
    assert "(new best, to be evaluated again)" in lines[wrong]
    notes = record.generations[min(wrong, GENERATIONS - 1)].notes
    assert len(notes) == 1
    assert notes[0].startswith("the best was not taken: its validation loss was 0.000, evaluated again ")
    point, loss = record.selected
    assert loss == pytest.approx(_true_loss(tmp_path / "run", point), abs=1e-5)
    assert loss > 0.05


@pytest.mark.slow("a true best survives a false check; a whole run")
def test_a_wrong_second_evaluation_asks_for_a_third(labels, honest, tmp_path):
    """What it was wrong about is right after all, and selected."""
    assert honest.generations[0].validation_loss > AGREEMENT
    changes = {_validation(2): perfect(1 - labels["validation"], LIMIT / 2, 1)}
    record, _ = _run(tmp_path / "run", changes=changes)
    (note,) = record.generations[1].notes
    assert note.endswith("evaluated again 32.000")
    assert record.selected[1] == pytest.approx(_true_loss(tmp_path / "run", record.selected[0]), abs=1e-5)
    assert record.selected[1] <= honest.generations[0].validation_loss + AGREEMENT


def test_an_implausible_second_evaluation_is_made_again(honest, tmp_path):
    changes = {_validation(2): lambda logits: np.full_like(logits, np.nan)}
    record, _ = _run(tmp_path / "run", "tuning.generations=3", changes=changes)
    assert [len(g.notes) for g in record.generations] == [0, 2, 0]
    assert record.generations[1].validation_loss == np.inf
    assert json.loads((tmp_path / "run" / "report.json").read_text())["validation_loss"][1] is None
    assert record.best_validation_loss == pytest.approx(honest.generations[0].validation_loss, abs=1e-6)


def test_an_initial_prompt_that_is_best_is_selected(labels, tmp_path):
    """The first generation evaluates it in place of the optimizer's mean."""
    change = perfect(labels["validation"], LIMIT / 2, 1)
    record, _ = _run(tmp_path / "run", changes={_validation(1): change, _validation(2): change})
    assert not np.any(record.selected[0])
    assert record.accuracy_after == record.accuracy_before


def test_every_generation_has_as_many_evaluations_whether_there_was_a_new_best_or_not(labels, tmp_path):
    counts = []
    for name, changes in (("honest", {}), ("wrong", {_validation(1): perfect(labels["validation"], 16.0, 0)})):
        config = _config()
        with Corrupting(changes) as runtime:
            owner = runtime.actor(DATA_OWNER, DataOwner, config, tmp_path / name, resume=False)
            session = set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
            seen = []
            for _ in range(4):
                run_generation(session)
                seen.append((session.clock.forward_calls, runtime.opened))
            confirm_best(session)
            counts.append([*seen, (session.clock.forward_calls, runtime.opened)])
    assert counts[0] == counts[1]


@pytest.mark.slow("an open check survives a resume; two runs")
def test_a_run_that_stopped_with_a_pending_best_goes_on_as_if_it_had_not(honest, tmp_path):
    """The finished run of three generations has its own second evaluation, which the longer one does not take over."""
    _run(tmp_path / "run", "tuning.generations=1")
    stopped = RunRecord.load(tmp_path / "run")
    assert stopped.pending
    assert stopped.pending_again == pytest.approx(stopped.pending_loss)
    resumed, _ = _run(tmp_path / "run", resume=True)
    assert resumed.generations == honest.generations
    assert (resumed.best, resumed.pending, resumed.selected) == (honest.best, honest.pending, honest.selected)


@pytest.mark.slow("such a run can go on; a run in two parts")
def test_no_candidate_with_plausible_logits_is_a_failure_that_says_what_to_do(tmp_path):
    changes = {_training(2): lambda logits: 1e6 * logits}
    with pytest.raises(RuntimeFailure, match=r"all candidates of generation 2 are implausible .* go on with `resume`"):
        _run(tmp_path / "run", changes=changes)
    assert len(RunRecord.load(tmp_path / "run").generations) == 1
    assert len(_run(tmp_path / "run", resume=True)[0].generations) == GENERATIONS


def test_no_confirmed_point_is_a_failure_that_says_what_to_do(labels, tmp_path):
    changes = {_validation(1): perfect(labels["validation"], 16.0, 0)}
    with pytest.raises(RuntimeFailure, match="no two evaluations of one agree; go on with `resume`"):
        _run(tmp_path / "run", "tuning.generations=1", changes=changes)


def test_implausible_logits_of_test_texts_count_as_wrong(tmp_path):
    record, _ = _run(tmp_path / "run", "tuning.generations=1", changes={0: lambda logits: 1e6 * logits})
    assert record.accuracy_before == 0


@pytest.mark.slow("no optimizer is led astray by refused losses; a run for each")
@pytest.mark.parametrize("optimizer", ["gauss-newton", "spsa", "random"])
def test_every_optimizer_takes_the_stand_ins(labels, tmp_path, optimizer):
    changes = {_training(g): perfect(labels["training"], 1e6, 0) for g in (1, 2)}
    record, _ = _run(tmp_path / "run", f"tuning.optimizer={optimizer}", "tuning.generations=3", changes=changes)
    assert [g.implausible for g in record.generations] == [[0], [0], []]
    assert np.isfinite(record.generations[1].logits).all()


def test_bounded_logits_bound_the_losses():
    """So that a loss below what the bound allows has an implausible logit."""
    label_count = 3
    best = np.full((1, 1, label_count), -LIMIT)
    best[..., 1] = LIMIT
    least = losses("cross_entropy", best, np.array([1]))[0]
    assert least == pytest.approx(np.log1p((label_count - 1) * np.exp(-2 * LIMIT)), abs=1e-12)
    logits = np.random.default_rng(0).uniform(-LIMIT, LIMIT, size=(100, 7, label_count))
    assert losses("cross_entropy", logits, np.ones(7, int)).min() >= least


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 33.0, -33.0])
def test_what_is_not_finite_or_beyond_the_bound_is_implausible(value):
    assert plausible(np.array([[[0.0, value], [LIMIT, -LIMIT]]]), LIMIT).tolist() == [[False, True]]


@pytest.mark.parametrize("limit", [0, -1.0, np.nan, np.inf, 2 * LARGEST_LIMIT, "32", None])
def test_a_bound_that_cannot_be_is_refused(limit):
    with pytest.raises(RuntimeFailure, match="the model owner's bound of the logits is"):
        check_limit(limit)


@pytest.mark.slow("the run ends early with all outputs; a run for each cause")
@pytest.mark.parametrize(("alpha", "found"), [("1.0e-9", "prompts are alike"), ("1.0e-3", "losses are alike")])
def test_a_search_without_a_slope_ends_after_a_generation(tmp_path, alpha, found):
    settings = f"tuning.alpha={alpha}", "tuning.generations=10"
    record, lines = _run(tmp_path / "run", *settings)
    assert len(record.generations) == 1
    assert lines[-1].startswith(f"stopped after generation 1: all candidates' {found}")
    assert f"raise tuning.alpha, which is {float(alpha):g}" in lines[-1]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stopped"] == lines[-1]
    assert report["forward_calls"] == 1 + (4 + 2) + 2 + 1
    assert (tmp_path / "run" / "prompt.safetensors").exists()
    owner = DataOwner(_config(*settings), tmp_path / "run", resume=True)
    assert owner.is_finished()
    assert owner.why_stopped() == lines[-1]
    more = DataOwner(_config(*settings, "tuning.generations=12"), tmp_path / "run", resume=True)
    assert more.is_finished()


def test_a_run_with_a_slope_makes_all_its_generations(honest):
    assert honest.stopped == ""
    assert len(honest.generations) == GENERATIONS
