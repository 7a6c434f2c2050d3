"""Baselines against plain loops, and the nearest MNIST digit's figure."""

import os

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from daad_jax.data import datasets
from reproduction import baselines, cells, experiment

RNG = np.random.default_rng(0)


def pictures(count, dark=0):
    return RNG.integers(dark, 256, (count, 8, 10, 3), np.uint8)


@pytest.mark.parametrize("chunk", [2**24, 12])
def test_nearest_l2_is_a_plain_loop(monkeypatch, chunk):
    monkeypatch.setattr(baselines, "DISTANCES_AT_ONCE", chunk)
    images, references = pictures(7), pictures(5)
    nearest = baselines.find_nearest(*(baselines.prepare_images(x, "l2") for x in (images, references)))
    for image, index, square in zip(images, *nearest):
        distances = [np.sum((image / 255 - other / 255) ** 2) for other in references]
        assert index == np.argmin(distances)
        assert square == pytest.approx(min(distances), rel=1e-5)


def test_images_of_16_bits_are_worth_those_of_8_bits():
    images = pictures(5)
    deep = images.astype(np.uint16) * np.uint16(257)
    np.testing.assert_allclose(baselines.mean_intensity(deep), baselines.mean_intensity(images), rtol=1e-6)
    for distance in ("l2", "cosine"):
        expected = baselines.prepare_images(images, distance)
        np.testing.assert_allclose(baselines.prepare_images(deep, distance), expected, atol=1e-6)
    expected = baselines.correct_brightness(images, 0.4)
    corrected = baselines.correct_brightness(deep, 0.4)
    assert corrected.dtype == np.uint16
    assert np.abs(corrected / 257 - expected).max() <= 0.51


def test_nearest_cosine_is_a_plain_loop():
    images, references = pictures(6), pictures(9)
    nearest = baselines.find_nearest(*(baselines.prepare_images(x, "cosine") for x in (images, references)))

    def smoothed(image):
        return gaussian_filter(image / 255, (1, 1, 0), mode="reflect").ravel()

    for image, index, square in zip(images, *nearest):
        x = smoothed(image)
        cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for y in map(smoothed, references)]
        assert index == np.argmax(cosines)
        assert square / 2 == pytest.approx(1 - max(cosines), rel=1e-3)


def test_nearest_tells_bright_images_apart_without_cancellation():
    """Two almost equal bright images: |a|^2 - 2ab + |b|^2 would leave nothing of their difference."""
    image = np.full((1, 64, 64, 3), 1.0, np.float32)
    other = image.copy()
    other[0, 0, 0, 0] = 0.99
    assert baselines.find_nearest(image, other).squares[0] == pytest.approx(1e-4, rel=1e-3)


def test_an_image_is_nearest_to_itself():
    images = pictures(12)
    for kind in ("l2", "cosine"):
        compared = baselines.prepare_images(images, kind)
        nearest = baselines.find_nearest(compared, compared)
        np.testing.assert_array_equal(nearest.indices, np.arange(12))
        assert nearest.squares.max() == 0


def test_black_images_have_a_distance():
    black = np.zeros((2, 8, 10, 3), np.uint8)
    nearest = baselines.find_nearest(
        baselines.prepare_images(black, "cosine"), baselines.prepare_images(black, "cosine")
    )
    assert nearest.squares.tolist() == [0, 0]


def test_mean_intensity_in_best_direction_auroc():
    labels = np.array([0, 0, 0, 1, 1])
    images = np.stack([np.full((4, 4, 1), v, np.uint8) for v in (10, 20, 40, 30, 255)])
    np.testing.assert_allclose(baselines.mean_intensity(images) * 255, [10, 20, 40, 30, 255])
    for values, brighter in ((images, True), (255 - images, False)):
        auroc, is_brighter = baselines.best_direction_auroc(labels, baselines.mean_intensity(values))
        assert auroc == pytest.approx(5 / 6)  # of six pairs one is in the wrong order
        assert is_brighter == brighter


def test_levelled_images_share_their_mean():
    images = pictures(5)[:, :, :, :1] // np.array([2, 3, 4, 5, 6], np.uint8).reshape(-1, 1, 1, 1)
    before, after = (baselines.mean_intensity(x) for x in (images, baselines.correct_brightness(images, 0.2)))
    assert np.ptp(before) > 0.1
    np.testing.assert_allclose(after, 0.2, atol=1e-3)
    assert baselines.correct_brightness(np.zeros((1, 4, 4, 1), np.uint8), 0.5).max() == 0


def test_difference_maps_show_the_place():
    references = np.zeros((1, 16, 16, 3), np.float32)
    images = references.copy()
    images[0, 4, 11] = 0.6
    nearest = baselines.find_nearest(images, references)
    sharp = baselines.difference_maps(images, references, nearest, 0)
    assert sharp[0, 4, 11] == pytest.approx(0.6)
    assert np.count_nonzero(sharp) == 1
    soft = baselines.difference_maps(images, references, nearest, 1.0)
    assert np.unravel_index(soft[0].argmax(), (16, 16)) == (4, 11)
    assert soft[0, 4, 12] > soft[0, 4, 13] > 0


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
@pytest.mark.slow
def test_the_nearest_digit(tmp_path):
    """A thousandth of the figure is the float32 sums' of another machine."""
    cell = cells.make_cell(cells.TABLES["mnist"], "1", "nearest_cosine", None, smoke=False)
    figures = experiment.run_cell(cell, tmp_path).results[0].figures
    assert figures["auroc"] == pytest.approx(0.9992, abs=1e-3)
    assert len(datasets.load(cell.config).test) == 10_000
