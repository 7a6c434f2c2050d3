"""Packed maps hold the same values, and layers between them compute the same results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models import packing
from daad_jax.models.layers import Conv, ConvTranspose
from daad_jax.models.norm import BatchNorm


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def test_a_packed_pixel_holds_its_neighbours_row_by_row():
    image = jnp.arange(16).reshape(1, 4, 4, 1)
    packed = packing.pack(image, 2)
    np.testing.assert_array_equal(packed[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(packing.unpack(packed, 2), image)
    maps = draw(2, 8, 12, 3)
    np.testing.assert_array_equal(packing.unpack(packing.pack(maps, 4), 4), maps)


def test_maps_are_packed_until_their_channels_fill_the_lanes():
    sides = (128, 128)
    assert packing.choose_grid(16, [16, 32, 64, 128], sides) == 2
    assert packing.choose_grid(16, [32, 64, 128, 128], sides) == 1
    assert packing.choose_grid(16, [3, 16, 32, 64, 128], sides) == 3
    assert packing.choose_grid(16, [128, 128], sides) == 0
    assert packing.choose_grid(16, [16, 32, 64, 128], (130, 130)) == 1  # 130 is not a multiple of 4
    assert packing.choose_grid(128, [16, 32, 64, 128], sides) == 0  # the images fill the lanes
    assert [packing.factor_of(level, 2) for level in range(4)] == [4, 2, 1, 1]


@pytest.mark.parametrize(
    ("layer", "kernel", "strides", "factors", "parts"),
    [
        (Conv, (3, 3), (1, 1), (2, 2), 1),
        (Conv, (3, 3), (1, 1), (4, 4), 1),
        (Conv, (4, 4), (2, 2), (4, 2), 1),
        (Conv, (4, 4), (2, 2), (2, 1), 1),
        (ConvTranspose, (4, 4), (2, 2), (1, 2), 1),
        (ConvTranspose, (4, 4), (2, 2), (2, 4), 2),
    ],
)
def test_a_layer_between_packed_maps_is_the_same_layer(layer, kernel, strides, factors, parts):
    plain = layer(5, kernel, strides, implementation="native")
    extra = {"parts": parts} if parts > 1 else {}
    packed = layer(5, kernel, strides, packing=factors, **extra)
    maps = [draw(2, 8, 12, 3) + i for i in range(parts)]
    x = jnp.concatenate(maps, axis=-1)
    params = plain.init(jax.random.key(0), x)

    def by_packing(params, maps):
        inputs = jnp.concatenate([packing.pack(part, factors[0]) for part in maps], axis=-1)
        return packing.unpack(packed.apply(params, inputs), factors[1])

    expected, pull = jax.vjp(
        lambda params, maps: plain.apply(params, jnp.concatenate(maps, -1)), params, maps
    )
    result, pull_packed = jax.vjp(by_packing, params, maps)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    gradient = draw(*expected.shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        pull_packed(gradient),
        pull(gradient),
    )


def test_batch_norm_counts_all_pixels_of_a_packed_map():
    x = draw(2, 8, 8, 3)
    plain, packed = BatchNorm(None, True), BatchNorm(None, True, 2)
    variables = plain.init(jax.random.key(0), x)
    expected, stats = plain.apply(variables, x, mutable=["batch_stats"])
    result, packed_stats = packed.apply(variables, packing.pack(x, 2), mutable=["batch_stats"])
    np.testing.assert_allclose(packing.unpack(result, 2), expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), packed_stats, stats)
