"""Pillow's pixels from matrices, and JAX's bilinear from the same."""

import jax
import numpy as np
import pytest

from daad_jax.data.images import resize
from daad_jax.export.graph import scales_rows_first
from daad_jax.export.pillow_scaling import bilinear, can_scale
from daad_jax.scoring.filters import along_both, triangle_matrix

RNG = np.random.default_rng(0)
SIZES = {
    "up": ((7, 5), (32, 48), 3),
    "down": ((300, 301), (64, 64), 1),
    "far down": ((700, 900), (16, 32), 3),
    "narrower and taller": ((32, 64), (64, 32), 3),
    "wider and lower": ((64, 32), (32, 64), 3),
    "much lower": ((900, 40), (32, 32), 1),
    "columns only": ((64, 90), (64, 64), 1),
    "rows only": ((33, 64), (64, 64), 3),
    "one pixel": ((1, 1), (16, 16), 1),
}


@pytest.mark.parametrize("case", SIZES)
def test_bilinear_gives_pillows_pixels(case):
    source, target, channels = SIZES[case]
    order = scales_rows_first(source, target)
    noise = RNG.integers(0, 256, (2, *source, channels), np.uint8)
    for images in (noise, np.where(noise > 127, 255, 0).astype(np.uint8), np.full_like(noise, 255)):
        got = jax.jit(lambda x: bilinear(x, *target, rows_first=order))(images)
        np.testing.assert_array_equal(got, [resize(image, *target) for image in images])


def test_the_bound_of_scaling_is_where_sums_stay_exact():
    assert can_scale(4096, 16)
    assert not can_scale(4200, 16)
    white = np.full((1, 1, 8192, 1), 255, np.uint8)
    assert can_scale(8192, 32)
    assert (bilinear(white, 1, 32, rows_first=False) == 255).all()


def test_matrices_of_feature_maps_are_jaxs():
    maps = RNG.random((2, 5, 7, 3)).astype(np.float32)
    rows, columns = (triangle_matrix(*n).astype(np.float32) for n in ((5, 16), (7, 3)))
    np.testing.assert_allclose(
        along_both(rows, columns, maps), jax.image.resize(maps, (2, 16, 3, 3), "linear"), atol=1e-6
    )
