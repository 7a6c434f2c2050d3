"""Pictures are brought to the model's size, and maps back to the pictures' sizes."""

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data.decoding import convert_array
from daad_jax.data.images import fit_mask, pad, prepare, undo_fit
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def configure(height, width, channels, fit):
    return DataConfig(height=height, width=width, channels=channels, fit=fit)


def fit(image, height, width, how):
    config = configure(height, width, image.shape[2], how)
    return prepare(convert_array(image, "x"), config, "x")


def test_fit():
    np.testing.assert_array_equal(fit(RGB, 6, 8, "exact"), RGB)
    with pytest.raises(UserError, match=r"x: the image has 6 x 8 pixels.*config.data.fit"):
        fit(RGB, 8, 8, "exact")
    padded = fit(RGB, 8, 8, "pad")
    np.testing.assert_array_equal(padded[1:7], RGB)
    np.testing.assert_array_equal(padded[0], RGB[0])
    assert fit(RGB, 3, 3, "pad").shape == (3, 3, 3)
    constant = np.full((9, 5, 1), 77, np.uint8)
    np.testing.assert_array_equal(fit(constant, 4, 4, "resize"), 77)


@pytest.mark.parametrize("how", ["exact", "resize", "pad"])
def test_a_map_lies_over_an_image_of_another_size(how):
    """As over the image's own, which is then scaled down."""
    spot = np.zeros((64, 64), np.float32)
    spot[20:30, 40:56] = 1
    over, small = undo_fit(spot, 256, 200, how), undo_fit(spot, 256, 200, how, (64, 50))
    assert (over.shape, small.shape) == ((256, 200), (64, 50))
    centres = [np.argwhere(values > 0.5).mean(axis=0) + 0.5 for values in (over, small)]
    np.testing.assert_allclose(centres[0] / 4, centres[1], atol=0.3)
    if how == "exact":
        return
    image = np.zeros((256, 200, 1), np.uint8)
    image[40:80, 150:190] = 255
    brought = fit(image, 64, 64, how)[..., 0].astype(np.float32) / 255
    back = np.argwhere(undo_fit(brought, 256, 200, how) > 0.5).mean(axis=0)
    np.testing.assert_allclose(back, [59.5, 169.5], atol=2)


def test_masks_are_scaled_without_new_values():
    mask = (GREY > 127).astype(np.uint8)
    for how in ("resize", "pad"):
        assert set(np.unique(fit_mask(mask, configure(3, 4, 1, how), "x"))) <= {0, 1}


@pytest.mark.parametrize("how", ["resize", "pad"])
def test_a_defect_too_small_for_the_model_keeps_the_pixels_that_it_touches(how):
    mask = np.zeros((600, 400), np.uint8)
    mask[301, 101:103] = 1
    large = mask.copy()
    large[400:500, 100:300] = 1
    data = configure(60, 60, 1, how)
    scaled = fit_mask(mask, data, "x")
    assert scaled.sum() == 1
    left = 15 if how == "resize" else 10 + 10  # the first pixel of the defect, with the margin of "pad"
    assert scaled[30, left] == 1
    # Nothing is added where a pixel is left.
    inner = (60, 60) if how == "resize" else (60, 40)
    expected = np.asarray(Image.fromarray(large).resize(inner[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(fit_mask(large, data, "x"), pad(expected, 60, 60))
