"""Greedy k-centre against a plain loop, and what it promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from daad_jax.method.coreset import PROJECTED_DIMENSIONS, choose_coreset

RNG = np.random.default_rng(0)


def greedy_by_loop(points, first, count):
    points, chosen = points.astype(np.float64), [first]
    while len(chosen) < count:
        chosen.append(int(cdist(points, points[chosen]).min(1).argmax()))
    return chosen


def radius(points, chosen):
    """The largest distance of a point from its nearest item."""
    return cdist(points, points[chosen]).min(1).max()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_choice_is_greedy(seed):
    points = RNG.standard_normal((60, 5)).astype(np.float32)
    chosen = choose_coreset(points, 20, seed)
    assert chosen.tolist() == greedy_by_loop(points, chosen[0], 20)
    assert choose_coreset(points, 20, seed).tolist() == chosen.tolist()
    assert choose_coreset(points, 7, seed).tolist() == chosen[:7].tolist()
    assert sorted(choose_coreset(points, 60, seed).tolist()) == list(range(60))


def test_the_seed_chooses_the_first_item():
    points = RNG.standard_normal((60, 5)).astype(np.float32)
    assert len({int(choose_coreset(points, 1, seed)[0]) for seed in range(8)}) > 1


@settings(max_examples=25, deadline=None)
@given(
    # One number of points and of items, so one compilation. Many points are the same.
    points=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=9, max_size=9),
    seed=st.integers(0, 3),
)
def test_no_point_is_farther_than_twice_the_optimum(points, seed):
    """Gonzalez (1985). The optimum comes from trying all choices of three points."""
    points = np.array(points, np.float32)
    chosen = choose_coreset(points, 3, seed)
    best = min(radius(points, list(some)) for some in itertools.combinations(range(9), 3))
    assert radius(points, chosen) <= 2 * best + 1e-6
    distinct = len(np.unique(points, axis=0))
    assert len(np.unique(points[chosen], axis=0)) == min(3, distinct)


def test_many_dimensions_are_projected():
    """The projection changes distances by a few percent, so the coreset is nearly as good."""
    points = RNG.standard_normal((300, 3 * PROJECTED_DIMENSIONS)).astype(np.float32)
    points[::2] *= 0.1
    chosen = choose_coreset(points, 150, 0)
    assert len(set(chosen.tolist())) == 150
    exact = greedy_by_loop(points, chosen[0], 150)
    assert radius(points, chosen) <= 1.1 * radius(points, exact)
