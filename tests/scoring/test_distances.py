"""R, L and their maps against numpy and scipy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from daad_jax.config import Config
from daad_jax.method import state
from daad_jax.scoring.distances import (
    DISTANCES,
    alignment_map,
    make_distances,
    power_mean,
    reconstruction_distance,
)
from daad_jax.scoring.filters import smooth
from daad_jax.scoring.scorer import variables_of

RNG = np.random.default_rng(0)
X, Y = RNG.random((2, 3, 8, 6, 2)).astype(np.float32)


def residual(x, y, kind):
    return DISTANCES[kind].residual(x, y)


def test_distances():
    flat = [(x.ravel(), y.ravel()) for x, y in zip(X, Y)]
    for kind, expected in {
        "l2": [np.linalg.norm(x - y) for x, y in flat],
        "squared": [np.mean((x - y) ** 2) for x, y in flat],
        "cosine": [1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in flat],
        "correlation": [1 - np.corrcoef(x, y)[0, 1] for x, y in flat],
    }.items():
        got = reconstruction_distance(residual(X, Y, kind), DISTANCES[kind])
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["l2", "squared", "cosine", "correlation"])
def test_pooling_weighs_places_by_how_bad_they_are(kind):
    difference = residual(X, Y, kind)
    square = ndimage.gaussian_filter(np.mean(np.square(difference), -1), (0, 1.5, 1.5), mode="reflect")
    expected = {p: np.mean(square.astype(np.float64) ** p, (1, 2)) ** (1 / p) for p in (2, 4, 64)}
    scale = {"l2": lambda s: np.sqrt(s * 8 * 6 * 2), "squared": lambda s: s}.get(kind, lambda s: s / 2)
    for pooling, value in expected.items():
        got = reconstruction_distance(difference, DISTANCES[kind], pooling, 1.5)
        np.testing.assert_allclose(got, scale(value), rtol=1e-4)
    # From the mean, which smoothing leaves as it is, towards the largest.
    mean, largest = np.mean(np.square(difference), (1, 2, 3)), square.max((1, 2))
    np.testing.assert_allclose(power_mean(square, 1), mean, rtol=1e-4)
    assert (mean < expected[4]).all()
    assert (0.9 * largest < expected[64]).all()
    assert (expected[64] < largest).all()


def test_pooling_of_no_difference_is_nothing():
    for kind in ("l2", "squared", "cosine"):
        assert reconstruction_distance(residual(X, X, kind), DISTANCES[kind], 8, 1.0).tolist() == [0, 0, 0]


def test_cosine_is_exact_where_images_nearly_agree():
    """1 - cos cancels: at a distance of 1e-7 float32 would be left with noise."""
    near = X * (1 + 5e-4 * RNG.standard_normal(X.shape).astype(np.float32))
    x, y = X.reshape(3, -1).astype(np.float64), near.reshape(3, -1).astype(np.float64)
    expected = 1 - (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    got = reconstruction_distance(residual(X, near, "cosine"), DISTANCES["cosine"])
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    assert (expected < 1e-6).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smoothing_is_scipys(sigma):
    expected = ndimage.gaussian_filter(X, (0, sigma, sigma, 0), mode="reflect", truncate=4)
    np.testing.assert_allclose(smooth(X, sigma), expected, rtol=1e-4, atol=1e-5)
    assert smooth(X, 0) is X


def test_alignment_map_by_loop():
    a, b = RNG.standard_normal((2, 2, 4, 2, 3)).astype(np.float32)
    got = alignment_map((a,), (b,), 4, 2)
    for index in np.ndindex(2, 4, 2):
        u, v = (m[index] / np.linalg.norm(m[index]) for m in (a, b))
        np.testing.assert_allclose(got[index], ((u - v) ** 2).sum(), rtol=1e-4)
    # Scaled up, and two layers count the same.
    twice = alignment_map((a, a), (b, a), 8, 4)
    assert twice.shape == (2, 8, 4)
    np.testing.assert_allclose(2 * twice, alignment_map((a,), (b,), 8, 4), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distance", ["l2", "squared", "cosine", "correlation"])
def test_r_is_what_its_map_sums_to(distance):
    config = Config()
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3,) * 4
    config.score.heat_smoothing, config.score.distance = 0.0, distance
    variables = variables_of(state.create_state(config))
    images = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    got = jax.jit(make_distances(config))(variables, images)
    square = np.mean(np.square(got.reconstruction_map), axis=(1, 2))
    factor = {"l2": lambda s: np.sqrt(s * 32 * 32 * 3), "squared": lambda s: s}
    np.testing.assert_allclose(got.reconstruction, factor.get(distance, lambda s: s / 2)(square), rtol=1e-5)
    assert got.alignment.min() > 0
    assert got.alignment_map.shape == (2, 32, 32)
    assert got.reconstructed.dtype == np.uint8


def test_maps_are_smoothed_as_squares():
    config = Config()
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3,) * 4
    variables = variables_of(state.create_state(config))
    images = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    sharp, smoothed = [], []
    for found, share in ((sharp, 0.0), (smoothed, 0.05)):
        config.score.heat_smoothing = share
        measured = jax.jit(make_distances(config))(variables, images)
        found += [np.asarray(measured.reconstruction_map), np.asarray(measured.alignment_map)]
    for before, after in zip(sharp, smoothed):
        expected = ndimage.gaussian_filter(before**2, (0, 1.6, 1.6), mode="reflect", truncate=4)
        np.testing.assert_allclose(after**2, expected, rtol=1e-3, atol=1e-5)


def test_l_of_all_layers_is_what_its_map_sums_to():
    config = Config()
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3,) * 4
    config.score.heat_smoothing, config.score.alignment = 0.0, "layers"
    images = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    got = jax.jit(make_distances(config))(variables_of(state.create_state(config)), images)
    np.testing.assert_allclose(got.alignment, np.mean(np.square(got.alignment_map), (1, 2)), rtol=1e-5)
    assert got.alignment.min() > 0
