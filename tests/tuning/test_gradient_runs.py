"""Tuning by gradients: the derivative is the loss's own, a run can be resumed, and faults are said or left out."""

import json

import numpy as np
import pytest
from corrupting import Corrupting, perfect
from small_runs import LABELS, PRIVATE, SMALL

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError, RuntimeFailure
from secp_spu.progress import Progress
from secp_spu.runtime import LocalRuntime, PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, RunRecord, losses, set_up, tune
from secp_spu.tuning.directions import NONCE_BYTES, TAG_BYTES, DirectionMasks
from secp_spu.tuning.driver import run_generation
from secp_spu.tuning.gradient import (
    FIRST,
    IMPLAUSIBLE,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    WANTED,
    cotangents,
    decoded,
    first_scale,
    next_scale,
    packed,
    unpacked,
)
from secp_spu.tuning.prompt import load_prompt

ADAM = (
    *(setting for setting in SMALL if "population" not in setting),
    "tuning.optimizer=adam",
    "tuning.population=null",
    "tuning.intrinsic_dim=null",
    "tuning.alpha=1",
    "tuning.rate=0.4",
    "model.reveal=gradients",
    "protocol=plaintext",
)
MOMENTUM = (*(s for s in ADAM if "reveal" not in s and "rate" not in s), "tuning.optimizer=momentum")
FIRST_SCALE = FIRST / 0.125
"""With the steepness that the demo's model has for its owner."""
INTRINSIC = ("tuning.space=intrinsic", "tuning.intrinsic_dim=7")


def config_of(*settings):
    return load_config(DEMO_CONFIG, [*ADAM, *settings])


def session_of(runtime, config, folder, *, resume=False):
    owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=resume)
    return set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())


def run(folder, *settings, changes=None, resume=False):
    """Tune with corrupted openings; returns the record."""
    with Corrupting(changes or {}) as runtime:
        tune(session_of(runtime, config_of(*settings), folder, resume=resume))
    return RunRecord.load(folder)


# The derivative


@pytest.mark.parametrize("kind", ["cross_entropy", "hinge"])
def test_cotangents_are_the_derivative_of_the_loss(kind):
    logits = np.random.default_rng(0).normal(size=(5, 3), scale=3)
    labels = np.array([0, 1, 2, 0, 1])
    step, found = 1e-6, np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        change = np.zeros_like(logits)
        change[index] = step
        above, below = (losses(kind, moved[None], labels)[0] for moved in (logits + change, logits - change))
        found[index] = len(labels) * (above - below) / (2 * step)
    np.testing.assert_allclose(cotangents(kind, logits, labels), found, atol=1e-6)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("settings", [(), (PRIVATE,), INTRINSIC, LABELS, ("tuning.loss=hinge",)], ids=str)
def test_a_step_is_told_the_derivative_of_the_loss_by_its_point(settings, tmp_path):
    """By difference quotients of whole evaluations, along the gradient and along other directions."""
    config = config_of(*settings)
    with PlaintextRuntime() as runtime:
        session = session_of(runtime, config, tmp_path / "run")
        owner = session.data_owner._instance
        run_generation(session, is_validated=False)
        gradient = unpacked(owner._record.generations[0].gradient).astype(np.float64)
        length = np.linalg.norm(gradient)
        noise = np.random.default_rng(0).normal(size=gradient.size) * length / np.sqrt(gradient.size)
        for direction in (gradient, gradient + noise):
            unit, step, found = direction / np.linalg.norm(direction), 0.05 / np.sqrt(max(1, length)), []
            for sign in (1, -1):
                owner._candidates = sign * step * unit[None]
                (opened,) = session.logits("candidates", 0, 1, "training")
                found.append(losses(config.tuning.loss, opened.value[None], owner._texts["training"].labels)[0])
            assert (found[0] - found[1]) / (2 * step) == pytest.approx(gradient @ unit, rel=0.03)


@pytest.mark.slow("steps under MPC are those of plaintext; two runs each")
@pytest.mark.parametrize("settings", [(), (PRIVATE,)], ids=str)
def test_a_secure_step_is_that_of_plaintext(settings, tmp_path):
    found = []
    for number, runtime in enumerate((PlaintextRuntime(), LocalRuntime("aby3"))):
        with runtime:
            session = session_of(runtime, config_of(*settings), tmp_path / str(number))
            run_generation(session, is_validated=False)
            found.append(unpacked(session.data_owner._instance._record.generations[0].gradient))
    assert np.linalg.norm(found[1] - found[0]) < 0.02 * np.linalg.norm(found[0])


# Runs


def perfect_start(folder):
    """Changes that make p0 right for all validation texts, after the first step and when it is evaluated again."""
    labels = DataOwner(config_of(), folder / "labels", resume=False)._texts["validation"].labels
    return {number: perfect(labels, 16.0, 1) for number in (3, 6)}


def test_the_loss_falls_and_the_best_prompt_is_selected(tmp_path):
    record = run(tmp_path / "run", "tuning.generations=6", "task.shots=8", "task.validation_shots=8")
    told = [generation.losses[0] for generation in record.generations]
    assert told[-1] < told[0] / 2
    assert record.selected[1] <= min(g.validation_loss for g in record.generations) + 1e-6
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["forward_calls"] == 6 * (1 + 2) + 2 + 2


@pytest.mark.parametrize("settings", [(), INTRINSIC, ("tuning.optimizer=sgd",)], ids=str)
def test_a_resumed_run_is_the_one_that_was_not_stopped(settings, tmp_path):
    whole = run(tmp_path / "whole", "tuning.generations=4", *settings)
    run(tmp_path / "parts", "tuning.generations=2", *settings)
    parts = run(tmp_path / "parts", "tuning.generations=4", *settings, resume=True)
    assert parts.generations == whole.generations
    assert (parts.best, parts.selected, parts.scale) == (whole.best, whole.selected, whole.scale)


def test_a_rate_that_falls_depends_on_the_number_of_steps(tmp_path):
    run(tmp_path / "run", "tuning.schedule=cosine", "tuning.generations=2")
    with pytest.raises(ConfigError, match="another configuration"):
        run(tmp_path / "run", "tuning.schedule=cosine", "tuning.generations=3", resume=True)


def test_an_initial_prompt_that_is_best_is_selected(tmp_path):
    record = run(tmp_path / "run", "tuning.generations=3", changes=perfect_start(tmp_path))
    assert not np.any(record.selected[0])
    assert record.generations[-1].losses[0] < record.generations[0].losses[0]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["accuracy_after"] == report["accuracy_before"]


def test_validation_is_as_often_as_it_is_asked_for(tmp_path):
    record = run(tmp_path / "run", "tuning.generations=5", "tuning.validate_every=3")
    assert [g.validation_loss is not None for g in record.generations] == [False, False, True, False, True]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [loss is not None for loss in report["validation_loss"]] == [False, False, True, False, True]


def test_tuning_stops_when_nothing_better_is_found(tmp_path):
    settings = "tuning.generations=9", "tuning.patience=2"
    record = run(tmp_path / "run", *settings, changes=perfect_start(tmp_path))
    assert record.stopped.startswith("stopped after generation 3: nothing better was found in 2 evaluations on the")
    assert len(record.generations) == 3


def test_patience_is_kept_by_gradient_free_optimizers_too(tmp_path):
    settings = [*SMALL, "protocol=plaintext", "tuning.generations=9", "tuning.patience=1", "tuning.alpha=1000"]
    config = load_config(DEMO_CONFIG, settings)
    with PlaintextRuntime() as runtime:
        tune(session_of(runtime, config, tmp_path / "run"))
    assert "which is tuning.patience" in RunRecord.load(tmp_path / "run").stopped


# What is wrong


def test_a_text_with_implausible_logits_is_left_out(tmp_path):
    def spoil(logits):
        logits[1] = 1e6
        return logits

    record = run(tmp_path / "run", "tuning.generations=2", changes={1: spoil})
    first, second = record.generations
    assert first.notes[0] == "implausible logits of 1 of 4 texts were left out"
    assert first.gradient
    assert not second.notes


def test_an_implausible_gradient_is_taken_again_with_a_smaller_scale(tmp_path):
    record = run(tmp_path / "run", "tuning.generations=2", changes={2: lambda g: g + 2.0**40})
    first, second = record.generations
    assert first.notes[0] == f"the gradient was implausible, and is taken again at the scale {FIRST_SCALE / 16:g}"
    assert (first.gradient, first.candidates) == ("", second.candidates)
    assert second.gradient


def test_gradients_that_are_never_plausible_end_the_run(tmp_path):
    changes = dict.fromkeys(range(1, 100), lambda g: np.full_like(g, np.nan) if g.ndim == 3 else g)
    with pytest.raises(RuntimeFailure, match="the gradient, at any scale, of generation 4 are implausible"):
        run(tmp_path / "run", "tuning.generations=9", changes=changes)


def test_a_party_that_has_not_agreed_shares_no_model(tmp_path):
    """Whatever its driver is asked for: the configuration itself is refused before, where it is read."""
    config = config_of()
    model = config.model.model_copy(update={"reveal": "logits"})
    with Corrupting({}) as runtime:
        with pytest.raises(ConfigError, match="model.reveal: is logits, so no gradient is opened"):
            session_of(runtime, config.model_copy(update={"model": model}), tmp_path / "run")
        assert runtime.opened == 0


def test_a_model_that_was_shared_for_forward_passes_gives_no_gradient(tmp_path):
    config = load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext"])
    with PlaintextRuntime() as runtime:
        session = session_of(runtime, config, tmp_path / "run")
        with pytest.raises(ConfigError, match="shared without directions"):
            session.step()
        with pytest.raises(ConfigError, match="without a way back: no gradient is computed"):
            session.shared.opened_gradient([], session.data_owner)


class _Longer(DataOwner):
    """Shares a longer prompt than was agreed on, or fewer derivatives."""

    what = "prompts"

    def prompts(self, which, first, last):
        found = super().prompts(which, first, last)
        return np.concatenate([found, found], axis=1) if self.what == "prompts" else found

    def cotangents(self, first, last, logits):
        return super().cotangents(first, last, logits)[:-1]


@pytest.mark.parametrize(("what", "message"), [("prompts", "a prompt of shape"), ("none", "derivatives by logits of")])
def test_what_a_data_owner_shares_has_the_shape_that_was_agreed_on(tmp_path, what, message, monkeypatch):
    monkeypatch.setattr(_Longer, "what", what)
    config = config_of()
    with PlaintextRuntime() as runtime:
        owner = runtime.actor(DATA_OWNER, _Longer, config, tmp_path / "run", resume=False)
        session = set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress())
        with pytest.raises(RuntimeFailure, match=message):
            run_generation(session)


@pytest.mark.parametrize(
    "damage",
    [
        {"scale": 0},
        {"scale": -1},
        {"scale": 1e300},
        {"waited": -5},
        {"gradient": "AAAAAA=="},
        {"gradient": packed(np.full(256, np.nan))},
        {"losses": []},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(tmp_path, damage):
    run(tmp_path / "run", "tuning.generations=2")
    path = tmp_path / "run" / "checkpoint.json"
    content = json.loads(path.read_text())
    for key, value in damage.items():
        (content if key in content else content["generations"][-1])[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="damaged"):
        run(tmp_path / "run", "tuning.generations=3", resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.reveal=logits"], "model.reveal: is logits, but the optimizer adam wants gradients"),
        (
            ["tuning.population=4"],
            "but the optimizer adam has no use for it: leave it out, which means population=null",
        ),
        (
            ["tuning.intrinsic_dim=9", "tuning.alpha=2"],
            r"intrinsic_dim: is given \(and so are tuning.alpha\), .* means intrinsic_dim=null, alpha",
        ),
        (["tuning.space=intrinsic"], "tuning.intrinsic_dim: is missing, but the optimizer adam needs it"),
        (["tuning.optimizer=cma"], "tuning.rate: is given, but the optimizer cma has no use for it"),
        (["tuning.optimizer=cma", "tuning.rate=null"], "tuning.population: is missing, but the optimizer cma needs it"),
        (["tuning.validate_every=0"], "tuning.validate_every is 0"),
        (["tuning.patience=0"], "tuning.patience is 0"),
        (["tuning.rate=0"], "tuning.rate is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_of(*settings)


def test_a_model_without_a_backward_pass_is_refused_before_anything_is_shared(tmp_path):
    config = config_of("model.activation=gelu", "model.force_activation=true")
    message = r"activation gelu has none: set model.activation: gelu_tanh, or adapt the model"
    with PlaintextRuntime() as runtime, pytest.raises(ConfigError, match=message):
        session_of(runtime, config, tmp_path / "run")


# Numbers that are opened


def test_what_is_opened_is_decoded_for_one_text():
    opened = np.full((1, 2, 3), 3.0)
    np.testing.assert_allclose(decoded(opened, 4.0, 5), 3.0 * 2 / 5 / 4)
    for wrong in (np.nan, np.inf, 5 * IMPLAUSIBLE):
        assert decoded(np.full((1, 2, 3), wrong), 4.0, 5) is None


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_the_scale_follows_the_models_steepness(size, slope):
    """However steep the losses are, which multiplies gradient and slopes alike; and fourfold at most at once."""
    gradient, slopes, scale = np.full((1, 2), size * slope), np.array([[slope, -slope]]), FIRST_SCALE
    for _ in range(20):
        before, scale = scale, next_scale(scale, gradient, slopes)
        assert scale <= 4 * before
    assert np.log2(scale) == round(np.log2(scale))
    assert WANTED[0] <= size * scale <= WANTED[1] or scale in (SMALLEST_SCALE, LARGEST_SCALE)


@pytest.mark.parametrize(("size", "slope"), [(0.0, 1.0), (1e-7, 1e-5)])
def test_the_scale_stays_where_there_is_nothing_but_noise(size, slope):
    assert next_scale(8.0, np.full((1, 2), size), np.array([[slope, -slope]])) == 8


@pytest.mark.slow("a gradient that left the ring within the layers; steps under MPC")
def test_a_scale_that_is_far_too_large_is_noticed_under_mpc(tmp_path):
    config = config_of("protocol=aby3", "task.shots=4")
    with LocalRuntime("aby3") as runtime:
        session = session_of(runtime, config, tmp_path / "run")
        record = session.data_owner._instance._record
        for scale in (FIRST_SCALE, 2.0**14, LARGEST_SCALE):
            record.scale = scale
            run_generation(session, is_validated=False)
    first, *others = (generation.notes for generation in record.generations)
    assert not first
    for notes in others:
        assert "the gradient was implausible" in notes[0]


def test_a_packed_gradient_is_the_same():
    gradient = np.random.default_rng(0).normal(size=50).astype(np.float32)
    np.testing.assert_array_equal(unpacked(packed(gradient)), gradient)
    with pytest.raises(ValueError, match=r"."):
        unpacked("no base 64 !")


# Gradients that stay in shares


def unseen_run(folder, runtime, *settings, resume=False):
    config = load_config(DEMO_CONFIG, [*MOMENTUM, *settings])
    with runtime:
        session = session_of(runtime, config, folder, resume=resume)
        tune(session)
        return session.data_owner._instance._record


def test_unseen_gradients_make_the_loss_fall(tmp_path):
    settings = "tuning.generations=6", "task.shots=8", "task.validation_shots=8"
    record = unseen_run(tmp_path / "run", PlaintextRuntime(), *settings)
    told = [generation.losses[0] for generation in record.generations]
    assert told[-1] < told[0] / 2
    assert not any(generation.gradient for generation in record.generations)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["accuracy_after"] > report["accuracy_before"]


@pytest.mark.parametrize("settings", [(), (PRIVATE,)], ids=str)
def test_an_unseen_run_that_is_resumed_is_the_one_that_was_not_stopped(settings, tmp_path):
    whole = unseen_run(tmp_path / "whole", PlaintextRuntime(), "tuning.generations=4", *settings)
    unseen_run(tmp_path / "parts", PlaintextRuntime(), "tuning.generations=2", *settings)
    parts = unseen_run(tmp_path / "parts", PlaintextRuntime(), "tuning.generations=4", *settings, resume=True)
    assert [g.losses for g in parts.generations] == [g.losses for g in whole.generations]
    assert (parts.selected, parts.scale) == (whole.selected, whole.scale)
    written = [load_prompt(tmp_path / name / "prompt.safetensors") for name in ("whole", "parts")]
    np.testing.assert_array_equal(written[0].start, written[1].start)
    np.testing.assert_array_equal(written[0].shift, written[1].shift)


@pytest.mark.slow("a run under MPC that is stopped and resumed")
def test_masked_directions_bring_a_secure_run_back(tmp_path):
    settings = "protocol=aby3", "tuning.rate=0.02"
    plain = unseen_run(tmp_path / "plain", PlaintextRuntime(), "tuning.generations=3", "tuning.rate=0.02")
    unseen_run(tmp_path / "run", LocalRuntime("aby3"), *settings, "tuning.generations=2")
    record = unseen_run(tmp_path / "run", LocalRuntime("aby3"), *settings, "tuning.generations=3", resume=True)
    assert all(len(generation.nonce) == 2 * (NONCE_BYTES + TAG_BYTES) for generation in record.generations)
    for secure, expected in zip(record.generations, plain.generations, strict=True):
        assert secure.losses[0] == pytest.approx(expected.losses[0], abs=0.003)


def test_a_step_whose_logits_are_all_implausible_is_taken_back(tmp_path):
    """The second step's are the fifth opening; the report says that it has no loss."""
    spoil = Corrupting({4: lambda logits: np.full_like(logits, 1e6)})
    record = unseen_run(tmp_path / "run", spoil, "tuning.generations=3")
    assert [len(g.notes) for g in record.generations] == [0, 2, 0]
    assert record.generations[1].notes[1] == "the loss rose, so the last step was taken back"
    assert json.loads((tmp_path / "run" / "report.json").read_text())["loss"][1] is None


@pytest.mark.parametrize("damage", [{"direction": "no base 64 !"}, {"direction": "AAAA"}, {"nonce": 3}], ids=str)
def test_a_damaged_direction_is_refused(tmp_path, damage):
    unseen_run(tmp_path / "run", PlaintextRuntime(), "tuning.generations=2")
    path = tmp_path / "run" / "checkpoint.json"
    content = json.loads(path.read_text())
    content["generations"][-1] |= damage
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="damaged"):
        unseen_run(tmp_path / "run", PlaintextRuntime(), "tuning.generations=3", resume=True)


def test_masks_are_made_again_for_the_same_weights_alone():
    masks, others = DirectionMasks({"a": np.ones(3)}), DirectionMasks({"a": np.zeros(3)})
    nonces = [masks.new_nonce() for _ in range(3)]
    found = masks.masks([*nonces, ""], 1000)
    np.testing.assert_array_equal(found, masks.masks([*nonces, ""], 1000))
    assert len(np.unique(found[:3])) == 3000
    assert not found[3].any()
    assert 0.4 < (found[:3] >> np.uint64(63)).mean() < 0.6
    for wrong in (others.new_nonce(), "00", "no hex", nonces[0][:-2] + "zz"):
        with pytest.raises(RuntimeFailure, match="begun with other weights"):
            masks.masks([wrong], 4)


def test_an_unseen_optimizer_opens_no_gradient_whatever_is_asked(tmp_path):
    config = load_config(DEMO_CONFIG, MOMENTUM)
    with PlaintextRuntime() as runtime:
        session = session_of(runtime, config, tmp_path / "run")
        with pytest.raises(ConfigError, match="that stay in shares: none is opened"):
            session.shared.opened_gradient([], session.data_owner)


def test_a_first_scale_wants_a_steepness():
    assert first_scale(0.25) == FIRST / 0.25
    assert (first_scale(1e-9), first_scale(1e9)) == (LARGEST_SCALE, SMALLEST_SCALE)
    for wrong in (None, 0.0, -1.0, np.inf, np.nan, "1"):
        with pytest.raises(RuntimeFailure, match="names no steepness"):
            first_scale(wrong)
