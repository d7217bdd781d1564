"""Optimizers: repeatable, deaf to everything but their seed and what they are told, and able to minimise."""

import numpy as np
import pytest

from secp_spu.optimizers import GRADIENT_OPTIMIZERS, OPTIMIZERS, Descent, Search, UnseenMomentum, fingerprint
from secp_spu.tuning import losses

DIM, POPULATION = 7, 8
KINDS = list(OPTIMIZERS)

# A softmax regression as the task: logits are linear in z, and a point that fits the labels is there.
TEXTS, LABELS = 11, 3
RNG = np.random.default_rng(5)
SLOPES = RNG.normal(size=(TEXTS, LABELS, DIM))
TRUTH = (SLOPES @ (2 * RNG.normal(size=DIM))).argmax(-1)


def _logits(points):
    return np.einsum("tld,cd->ctl", SLOPES, points)


def _task(points):
    return losses("cross_entropy", _logits(points), TRUTH)


def _make(kind, seed=3):
    return OPTIMIZERS[kind](Search(DIM, POPULATION, 1.0, [seed], TRUTH))


def _course(kind, seed, generations, loss=_task, noise=0.0):
    optimizer, asked, rng = _make(kind, seed), [], np.random.default_rng(0)
    for _ in range(generations):
        asked.append(optimizer.ask())
        told = _logits(asked[-1])
        told = told + noise * rng.normal(size=told.shape)
        optimizer.tell(loss(asked[-1]), told)
    return np.array(asked), optimizer.mean


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_the_course_whatever_numpys_global_generator_does(kind):
    np.random.seed(1)
    first, _ = _course(kind, 3, 4)
    np.random.seed(2)
    np.random.rand(5)
    state = np.random.get_state()[1].copy()
    second, _ = _course(kind, 3, 4)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    assert first.shape == (4, POPULATION, DIM)


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_goes_another_way(kind):
    assert not np.array_equal(_course(kind, 3, 1)[0], _course(kind, 4, 1)[0])


@pytest.mark.parametrize("kind", ["cma", "sep-cma", "xnes", "de", "random"])
def test_only_the_order_of_the_losses_matters(kind):
    exact, _ = _course(kind, 3, 5)
    distorted, _ = _course(kind, 3, 5, lambda points: np.log(_task(points)) * 1e-2 + 5)
    np.testing.assert_array_equal(exact, distorted)


@pytest.mark.parametrize("kind", KINDS)
def test_it_minimises(kind):
    start = _task(np.zeros((1, DIM)))[0]
    _, mean = _course(kind, 0, 60)
    assert _task(mean[None])[0] < (0.8 if kind == "random" else 0.35) * start


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_gauss_newton_needs_about_as_many_evaluations_as_dimensions(noise):
    """With linear logits the matrix is complete after DIM directions; 0.01 is the fixed-point error of a model."""
    generations = 3
    start = _task(np.zeros((1, DIM)))[0]
    _, mean = _course("gauss-newton", 0, generations, noise=noise)
    _, rival = _course("cma", 0, generations)
    assert _task(mean[None])[0] < 0.2 * start
    assert _task(mean[None])[0] < 0.5 * _task(rival[None])[0]


@pytest.mark.parametrize("population", [4, 5, 30])
def test_gauss_newton_takes_any_population(population):
    optimizer = OPTIMIZERS["gauss-newton"](Search(DIM, population, 1.0, [0], TRUTH))
    for _ in range(4):
        asked = optimizer.ask()
        assert asked.shape == (population, DIM)
        optimizer.tell(_task(asked), _logits(asked))


def test_a_fingerprint_tells_candidates_apart():
    points = np.random.default_rng(0).normal(size=(2, 3))
    moved = points.copy()
    moved[1, 2] = np.nextafter(moved[1, 2], 1)
    assert fingerprint(points) == fingerprint(points.copy())
    assert fingerprint(points) != fingerprint(moved)


@pytest.mark.parametrize("kind", KINDS)
def test_only_cma_es_says_that_it_has_converged(kind):
    """On a task that is solved: the points come as near together as they can."""
    optimizer = _make(kind)
    assert optimizer.stopped_by == []
    for _ in range(400):
        points = optimizer.ask()
        optimizer.tell((points**2).sum(-1), _logits(points))
        if optimizer.stopped_by:
            break
    assert bool(optimizer.stopped_by) == (kind in ("cma", "sep-cma"))


def test_gauss_newton_takes_logits_of_any_precision_for_the_same():
    """A resumed run reads its record's logits as 64 bits, where the run that wrote them had 32."""
    asked = []
    for precision in (np.float32, np.float64):
        optimizer, rng = OPTIMIZERS["gauss-newton"](Search(DIM, 6, 1.0, [0], TRUTH)), np.random.default_rng(5)
        for _ in range(3):
            asked.append(optimizer.ask().copy())
            logits = rng.normal(size=(len(asked[-1]), len(TRUTH), TRUTH.max() + 1)).astype(np.float32)
            optimizer.tell(rng.random(len(logits)), logits.astype(precision))
    for of_32, of_64 in zip(asked[:3], asked[3:], strict=True):
        np.testing.assert_array_equal(of_32, of_64)


# Along gradients

OPENED = [kind for kind, optimizer in GRADIENT_OPTIMIZERS.items() if optimizer.opens]


def _slope(point):
    """The loss's derivative, of the softmax regression."""
    logits = _logits(point[None])[0]
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("tl,tld->d", powers / powers.sum(-1, keepdims=True) - np.eye(LABELS)[TRUTH], SLOPES) / TEXTS


def _descent(kind, steps, **changes):
    descent = Descent(**{"length": DIM, "rate": 0.5, "schedule": "constant", "steps": steps, **changes})
    optimizer, course = GRADIENT_OPTIMIZERS[kind](descent), []
    for _ in range(steps):
        (point,) = optimizer.ask()
        course.append(point)
        optimizer.tell(_slope(point))
    return np.array([*course, optimizer.mean])


@pytest.mark.parametrize("kind", OPENED)
def test_gradients_lead_from_zero_to_a_small_loss(kind):
    course = _descent(kind, 30)
    assert not course[0].any()
    assert _task(course[-1:])[0] < _task(course[:1])[0] / 10


def test_adams_first_step_is_the_rate_long_in_every_direction():
    for rate in (0.5, 0.1):
        np.testing.assert_allclose(np.abs(_descent("adam", 1, rate=rate)[1]), rate, rtol=1e-4)


def test_momentum_adds_the_step_before():
    first, second = _descent("sgd", 2, rate=0.1)[1:]
    np.testing.assert_allclose(second - first, 0.9 * first - 0.1 * _slope(first), atol=1e-6)


@pytest.mark.parametrize("kind", OPENED)
def test_a_rate_that_is_not_given_is_the_optimizers_own(kind):
    usual = GRADIENT_OPTIMIZERS[kind].usual_rate
    np.testing.assert_array_equal(_descent(kind, 2, rate=None), _descent(kind, 2, rate=usual))


def test_a_cosine_schedule_ends_with_short_steps():
    steps = np.linalg.norm(np.diff(_descent("adam", 10, schedule="cosine"), axis=0), axis=1)
    assert steps[-1] < steps[0] / 10


# Along directions that are not seen


def _unseen(steps, rate=0.3, loss=None):
    """Its course in the space of points, with the directions that it has no part in."""
    optimizer, directions, course, taken_back = UnseenMomentum(Descent(steps, rate, "constant", steps)), [], [], []
    for number in range(steps):
        (point,) = optimizer.ask()
        assert not point[number:].any()
        place = point[:number] @ np.array(directions).reshape(number, DIM)
        course.append(place)
        slope = _slope(place)
        directions.append(slope / np.sqrt(np.square(slope).mean()))
        found = _task(place[None])[0] if loss is None else loss[number]
        taken_back.append(optimizer.tell(found))
    return np.array([*course, optimizer.mean @ np.array(directions)]), np.array(directions), taken_back


def test_unseen_directions_lead_to_a_small_loss():
    course, _, _ = _unseen(30)
    assert not course[0].any()
    assert min(_task(course)) < _task(course[:1])[0] / 10


def test_an_unseen_step_has_momentum():
    course, directions, _ = _unseen(2, rate=0.01)
    np.testing.assert_allclose(course[1], -0.01 * directions[0])
    np.testing.assert_allclose(course[2], course[1] - 0.01 * (0.9 * directions[0] + directions[1]))


@pytest.mark.parametrize("rose", [1.3, np.inf])
def test_a_step_after_which_the_loss_rose_is_taken_back(rose):
    """The next one starts at the least loss, along the direction there, with half the rate."""
    course, directions, taken_back = _unseen(4, rate=0.1, loss=[1.0, 0.9, rose, 0.8])
    assert taken_back == [False, False, True, False]
    np.testing.assert_allclose(course[3], course[1] - 0.05 * directions[1])
    np.testing.assert_allclose(course[4], course[3] - 0.05 * (0.9 * directions[1] + directions[3]))
