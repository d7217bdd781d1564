"""CMA-ES: repeatable, deaf to everything but its seed and the order of the losses, and able to minimise."""

import numpy as np

from secp_spu.tuning import CmaEs
from secp_spu.tuning.optimizer import fingerprint

DIM, POPULATION = 7, 6


def _course(seed, generations, loss):
    optimizer, asked = CmaEs(DIM, POPULATION, 1.0, seed), []
    for _ in range(generations):
        asked.append(optimizer.ask())
        optimizer.tell(loss(asked[-1]))
    return np.array(asked), optimizer.mean


def _bowl(points):
    return ((points - 0.7) ** 2).sum(-1)


def test_a_seed_repeats_the_course_whatever_numpys_global_generator_does():
    np.random.seed(1)
    first, _ = _course(3, 4, _bowl)
    np.random.seed(2)
    np.random.rand(5)
    state = np.random.get_state()[1].copy()
    second, _ = _course(3, 4, _bowl)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_another_seed_goes_another_way():
    assert not np.array_equal(_course(3, 1, _bowl)[0], _course(4, 1, _bowl)[0])


def test_only_the_order_of_the_losses_matters():
    exact, _ = _course(3, 5, _bowl)
    distorted, _ = _course(3, 5, lambda points: np.log(_bowl(points)) * 1e-3 + 5)
    np.testing.assert_array_equal(exact, distorted)
    reversed_order, _ = _course(3, 5, lambda points: -_bowl(points))
    assert not np.array_equal(exact[1:], reversed_order[1:])


def test_it_minimises():
    _, mean = _course(0, 120, _bowl)
    # from a distance of 0.7 sqrt(7) = 1.85; a random walk of this length would be farther off than that
    assert np.abs(mean - 0.7).max() < 0.02


def test_a_fingerprint_tells_candidates_apart():
    points = np.random.default_rng(0).normal(size=(2, 3))
    moved = points.copy()
    moved[1, 2] = np.nextafter(moved[1, 2], 1)
    assert fingerprint(points) == fingerprint(points.copy())
    assert fingerprint(points) != fingerprint(moved)
