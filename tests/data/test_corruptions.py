"""Corruptions: local, visible, and a function of the seed."""

import numpy as np
import pytest

from daad_jax.data.corruptions import KINDS, anomalies_of, corrupt, ellipse

RADII = (0.06, 0.4)
RNG = np.random.default_rng(0)
SMOOTH = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3)
IMAGES = np.stack([SMOOTH, SMOOTH[::-1], RNG.integers(0, 256, SMOOTH.shape)]).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_a_local_visible_change(kind):
    before = IMAGES.copy()
    out = corrupt(IMAGES, kind, RADII, seed=3)
    np.testing.assert_array_equal(IMAGES, before)
    assert out.shape == IMAGES.shape
    assert out.dtype == np.uint8
    change = np.abs(out.astype(float) - IMAGES)
    for image, of in zip(IMAGES, change):
        assert np.sqrt(np.mean(of**2)) > 0.02 * image.std()
        assert (of == 0).all(-1).mean() > 0.2  # what lies outside the ellipse
    np.testing.assert_array_equal(out, corrupt(IMAGES, kind, RADII, seed=3))
    assert (out != corrupt(IMAGES, kind, RADII, seed=4)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_16_bits_change_as_those_of_8_bits_do(kind):
    deep = corrupt(IMAGES.astype(np.uint16) * 257, kind, RADII, seed=3)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - corrupt(IMAGES, kind, RADII, seed=3)).max() <= 0.51


def test_kinds_differ():
    found = [corrupt(IMAGES, kind, RADII, seed=0) for kind in KINDS]
    for i, a in enumerate(found):
        assert all((a != b).any() for b in found[:i])


def test_an_image_without_contrast_stays_valid():
    flat = np.full((2, 16, 16, 1), 7, np.uint8)
    for kind in KINDS:
        assert corrupt(flat, kind, RADII, seed=0).shape == flat.shape


def test_emptiness_is_passed_over():
    """On a mostly black image a place where black becomes black is not taken."""
    images = np.zeros((20, 32, 32, 1), np.uint8)
    images[:, 12:20, 12:20] = RNG.integers(100, 256, (20, 8, 8, 1))
    changed = np.abs(corrupt(images, "turn", RADII, seed=0).astype(int) - images).max(axis=(1, 2, 3)) > 20
    assert changed.mean() > 0.9


def test_ellipses_are_soft_and_of_all_sizes():
    masks = np.stack([ellipse(64, 64, RADII, np.random.default_rng(seed)) for seed in range(300)])
    assert masks.min() == 0
    assert masks.max() == 1
    assert ((masks > 0) & (masks < 1)).any()
    sizes = (masks > 0).mean(axis=(1, 2, 3))
    assert sizes.max() <= np.pi * RADII[1] ** 2
    assert np.median(sizes) < 0.1 < sizes.max()


def test_other_classes_are_arrangements_and_defects_anything():
    kinds, radii = anomalies_of("one_class")
    assert set(kinds) < set(KINDS)
    assert anomalies_of("leave_one_out") == (kinds, radii)
    defects, smaller = anomalies_of("inspection")
    assert set(defects) == set(KINDS)
    assert smaller < radii
