"""Distances from items against SciPy's, and how the distances of several memories become one."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from daad_jax.config import ScoreConfig
from daad_jax.models.memory import read
from daad_jax.scoring.memory_distances import (
    enlarge,
    join_memories,
    nearest_distance,
    pool_places,
    soft_distance,
)

RNG = np.random.default_rng(0)
ITEMS = RNG.standard_normal((40, 6)).astype(np.float32)
QUERIES = RNG.standard_normal((2, 3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
def test_nearest_items_are_scipys(count):
    expected = np.sort(cdist(QUERIES.reshape(-1, 6).astype(np.float64), ITEMS))[:, :count].mean(1)
    found = jax.jit(lambda q, m: nearest_distance(q, m, count))(QUERIES, ITEMS)
    np.testing.assert_allclose(found, expected.reshape(2, 3, 4), rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 11), (3, 2)])
@pytest.mark.parametrize("count", [50, 51, 137, 200])
def test_groups_of_items_are_searched_in_two_steps(count, size):
    """For maps of many and of few places, and for numbers of items that groups do not divide."""
    items = RNG.standard_normal((count, 5)).astype(np.float32)
    queries = RNG.standard_normal((3, *size, 5)).astype(np.float32)
    expected = cdist(queries.reshape(-1, 5).astype(np.float64), items).min(1).reshape(3, *size)
    for implementation in ("split", "native", "portable"):
        found = jax.jit(nearest_distance, static_argnums=(2, 3))(queries, items, 1, implementation)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_item_has_no_distance_from_itself():
    """Distances from products would leave the square root of the rounding, here about 0.1."""
    items = 100 + ITEMS
    found = jax.jit(lambda q, m: nearest_distance(q, m, 1))(items.reshape(2, 4, 5, 6), items)
    np.testing.assert_array_equal(found, 0)
    near = items[:, None, None] + np.float32(1e-3)
    expected = cdist(near[:, 0, 0].astype(np.float64), items.astype(np.float64)).min(1)
    np.testing.assert_allclose(nearest_distance(near, items, 1)[:, 0, 0], expected, rtol=1e-4)


def test_soft_distances_are_those_from_what_a_memory_reads():
    for temperature in (1.0, 0.05):
        expressed, _ = read(QUERIES, ITEMS, temperature)
        expected = np.linalg.norm(QUERIES - expressed, axis=-1)
        np.testing.assert_allclose(soft_distance(QUERIES, ITEMS, temperature), expected, rtol=1e-5)


def test_places_are_pooled_between_the_mean_and_the_largest():
    distances = np.abs(QUERIES[..., 0])
    squares = distances.astype(np.float64) ** 2
    for exponent in (1, 4):
        expected = np.sqrt((squares**exponent).mean((1, 2)) ** (1 / exponent))
        np.testing.assert_allclose(pool_places(distances, exponent), expected, rtol=1e-5)
    np.testing.assert_allclose(pool_places(distances, 64), distances.max((1, 2)), rtol=0.05)
    np.testing.assert_array_equal(pool_places(np.zeros((2, 3, 3), np.float32), 4) < 1e-3, True)


def test_memories_are_weighted():
    fine, coarse = np.abs(QUERIES[..., 1]), np.abs(QUERIES[:, :1, :1, 2])
    score = ScoreConfig(pooling=4, weights=(1.0, 3.0), heat_weights=(2.0, 0.0))
    r, heat = join_memories((fine, coarse), (2.0, 4.0), score, (24, 16), 0.0)
    parts = pool_places(fine, 4) / 2, pool_places(coarse, 4) / 4
    np.testing.assert_allclose(r, (parts[0] + 3 * parts[1]) / 4, rtol=1e-5)
    np.testing.assert_allclose(heat, enlarge(fine, (24, 16)) / 2, rtol=1e-5)
    r, heat = join_memories((fine, coarse), (2.0, 4.0), ScoreConfig(pooling=4), (24, 16), 0.0)
    np.testing.assert_allclose(r, (parts[0] + parts[1]) / 2, rtol=1e-5)
    maps = enlarge(fine, (24, 16)) / 2, enlarge(coarse, (24, 16)) / 4
    np.testing.assert_allclose(heat, (maps[0] + maps[1]) / 2, rtol=1e-5)


def test_the_heat_map_has_the_size_of_the_image_and_shows_the_place():
    distances = np.zeros((1, 4, 3), np.float32)
    distances[0, 2, 0] = 1
    _, heat = join_memories((distances,), (1.0,), ScoreConfig(), (64, 48), 2.0)
    assert heat.shape == (1, 64, 48)
    assert np.unravel_index(np.argmax(heat[0, :, 1:]), (64, 47))[0] in range(34, 46)
    assert heat[0].max() < 1  # smoothed
    np.testing.assert_allclose(enlarge(np.ones((1, 1, 1), np.float32), (64, 48)), 1, rtol=1e-6)
