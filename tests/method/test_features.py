"""Descriptions of blocks against plain loops, their scaling, and the shapes that are known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from daad_jax.method import features
from daad_jax.validation import validate
from tests.tiny import tiny_feature_config

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def neighbours_by_loop(features, side):
    """The average of the square of `side` places around each place, without what lies outside the map."""
    averaged, reach = np.zeros(features.shape, np.float64), side // 2
    for i, j in np.ndindex(features.shape[1:3]):
        rows, columns = (slice(max(n - reach, 0), n + reach + 1) for n in (i, j))
        averaged[:, i, j] = features[:, rows, columns].mean((1, 2), dtype=np.float64)
    return averaged


def blocks_by_loop(features, grid):
    """The average of each block, a place weighted by the area that the block covers of it."""
    size, found = features.shape[1:3], np.zeros((len(features), *grid, features.shape[-1]))
    for i, j in np.ndindex(grid):
        total = 0.0
        for y, x in np.ndindex(size):
            height = min((i + 1) * size[0] / grid[0], y + 1) - max(i * size[0] / grid[0], y)
            width = min((j + 1) * size[1] / grid[1], x + 1) - max(j * size[1] / grid[1], x)
            if height > 0 and width > 0:
                found[:, i, j] += height * width * features[:, y, x]
                total += height * width
        found[:, i, j] /= total
    return found


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("grid", [(7, 5), (3, 2), (4, 4), (1, 3)])
def test_blocks_are_area_averages(grid, side):
    """Also where the blocks do not divide the map evenly, and at the edges."""
    x = draw(2, 7, 5, 3)
    found = features.describe([x], grid, side)
    np.testing.assert_allclose(found, blocks_by_loop(neighbours_by_loop(x, side), grid), rtol=1e-4, atol=1e-5)


def test_blocks_smaller_than_a_place_are_interpolated():
    """Linearly between the centres of places, and constant beyond the outermost ones."""
    x = draw(2, 3, 4, 2)
    found = features.describe([x], (9, 6), 1)
    rows, columns = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in ((9, 3), (6, 4)))
    for b, c in np.ndindex(2, 2):
        wide = np.stack([np.interp(columns, np.arange(4), row) for row in x[b, :, :, c]])
        expected = np.stack([np.interp(rows, np.arange(3), column) for column in wide.T], 1)
        np.testing.assert_allclose(found[b, :, :, c], expected, rtol=1e-4, atol=1e-5)


def test_maps_of_several_sizes_are_joined():
    fine, coarse = draw(2, 8, 8, 3), draw(2, 4, 4, 2)
    found = features.describe([fine, coarse], (4, 4), 3)
    assert found.shape == (2, 4, 4, 5)
    np.testing.assert_array_equal(found[..., :3], features.describe([fine], (4, 4), 3))
    np.testing.assert_array_equal(found[..., 3:], features.describe([coarse], (4, 4), 3))


def test_the_whole_image_has_means_and_spreads():
    maps = [draw(2, 7, 5, 3), 1e3 + 1e-2 * draw(2, 4, 4, 2)]
    found = features.describe_image(maps, with_spread=True)
    parts = [m.mean((1, 2), dtype=np.float64) for m in maps] + [m.std((1, 2), dtype=np.float64) for m in maps]
    np.testing.assert_allclose(found[:, 0, 0], np.concatenate(parts, 1), rtol=1e-3, atol=1e-5)
    constant = features.describe_image([np.ones((1, 3, 3, 2), np.float32)], with_spread=True)
    np.testing.assert_allclose(constant[0, 0, 0], [1, 1, 1e-6, 1e-6], rtol=1e-6)


@pytest.mark.parametrize(
    ("block", "height", "width", "grid"),
    [(16, 64, 64, (4, 4)), (16, 65, 48, (5, 3)), (0, 65, 48, (1, 1)), (100, 64, 101, (1, 2))],
)
def test_grids(block, height, width, grid):
    assert features.grid_of(block, height, width) == grid


def test_scaling_by_factors_by_a_matrix_and_with_the_place():
    blocks, mean, factors, matrix = draw(2, 3, 2, 4), draw(4), draw(4), draw(4, 4)
    centred = (blocks - mean).astype(np.float64)
    scaled = features.scale(jnp.asarray(blocks), {"mean": mean, "transform": factors})
    np.testing.assert_allclose(scaled, centred * factors, rtol=1e-5, atol=1e-6)
    scaled = features.scale(jnp.asarray(blocks), {"mean": mean, "transform": matrix})
    np.testing.assert_allclose(scaled, centred @ matrix, rtol=1e-4, atol=1e-5)
    scaled = features.scale(jnp.asarray(blocks), {"mean": mean, "transform": matrix, "place": np.float32(3)})
    np.testing.assert_allclose(scaled[..., :4], centred @ matrix, rtol=1e-4, atol=1e-5)
    for i, j in np.ndindex(3, 2):
        place = [3 * ((i + 0.5) / 3 - 0.5), 3 * ((j + 0.5) / 2 - 0.5)]
        np.testing.assert_allclose(scaled[:, i, j, 4:], [place, place], rtol=1e-6)


def test_whitened_distances_are_mahalanobis():
    points, root = draw(6, 3), draw(3, 3)
    scaling = {"mean": points.mean(0), "transform": root}
    scaled = np.asarray(features.scale(jnp.asarray(points[:, None, None]), scaling))[:, 0, 0]
    expected = cdist(points, points, "mahalanobis", VI=(root @ root.T).astype(np.float64))
    np.testing.assert_allclose(cdist(scaled, scaled), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_blocks_are_those_that_the_configuration_tells(bits, channels):
    """A block as large as the image is an average only; 0 is the whole image, with its spread."""
    config = tiny_feature_config(
        data__channels=channels, model__blocks=(0, 64, 100, 24, 8), model__memory_items=(3,) * 5,
        model__feature_layers=((4,), (1, 4), (4,), (4,), (0, 1)),
    )  # fmt: skip
    validate(config)
    extractor, layers = features.needed_layers(config.model)
    assert layers == (0, 1, 4)
    images = jax.ShapeDtypeStruct((2, 64, 64, channels), f"uint{bits}")
    blocks = jax.eval_shape(features.make_block_reader(config), extractor.abstract_params(layers), images)
    grids = [features.grid_of(block, 64, 64) for block in config.model.blocks]
    depths = [features.channels_of(config.model, index) for index in range(5)]
    assert [b.shape for b in blocks] == [(2, *grid, depth) for grid, depth in zip(grids, depths)]
