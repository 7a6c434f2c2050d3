"""Figures by hand, and AUPRO against its definition."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from daad_jax.data.samples import Split
from daad_jax.evaluation.figures import _sample_mask, find_known_pixels
from daad_jax.evaluation.metrics import compute_image_metrics, compute_pixel_metrics


def test_image_figures_by_hand():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9])
    figures = compute_image_metrics(labels, scores, 0.55)
    assert figures["auroc"] == 0.75
    assert [figures[k] for k in ("true_normal", "false_alarms", "missed", "found")] == [1, 1, 1, 1]
    assert figures["f1"] == 0.5
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def aupro_by_thresholds(masks, heat, limit=0.3):
    regions = []
    for i, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labelled == k + 1) for k in range(count)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(heat)[::-1]:
        flagged = heat >= threshold
        fpr = flagged[masks == 0].mean()
        points.append((fpr, np.mean([flagged[i][region].mean() for i, region in regions])))
    fpr, pro = np.array(points).T
    grid = np.linspace(0, limit, 20001)
    return np.trapezoid(np.interp(grid, fpr, pro), grid) / limit


def test_aupro_is_the_mean_over_regions_up_to_the_limit():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 12, 10), np.uint8)
    masks[0, 1:3, 1:3] = masks[0, 6:11, 4:9] = masks[1, 2, 2] = masks[1, 3, 3] = 1  # the last two touch
    masks[2, :, 5] = 1
    heat = rng.random(masks.shape) + 0.5 * masks
    heat[0, 1:3, 1:3] = 0  # a small region missed entirely costs a quarter, not its few pixels
    figures = compute_pixel_metrics(masks, heat)
    assert figures["aupro"] == pytest.approx(aupro_by_thresholds(masks, heat), abs=2e-4)
    pairs = heat[masks > 0][:, None] - heat[masks == 0][None]
    assert figures["pixel_auroc"] == pytest.approx(np.mean(pairs > 0))
    assert compute_pixel_metrics(masks, masks.astype(float)) == {"pixel_auroc": 1.0, "aupro": 1.0}


def test_an_anomalous_image_without_a_mask_says_nothing_of_its_pixels():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[1, 0, 0] = 1
    split = Split(masks[..., None], np.array([0, 1, 1]), ["good", "cut", "cut"], list("abc"), masks)
    assert find_known_pixels(split).tolist() == [True, True, False]
    assert find_known_pixels(dataclasses.replace(split, masks=0 * masks)) is None
    assert find_known_pixels(dataclasses.replace(split, masks=None)) is None


def test_a_defect_between_the_rows_of_large_maps_is_not_lost():
    mask = np.zeros((20, 21), np.uint8)
    mask[19, 20] = mask[4, 7] = 1
    sampled = _sample_mask(mask, 3)
    assert sampled.shape == mask[::3, ::3].shape
    assert np.argwhere(sampled).tolist() == [[1, 2], [6, 6]]
    mask[6, 9] = 1  # this pixel is in a row and a column that are taken
    np.testing.assert_array_equal(_sample_mask(mask, 3), mask[::3, ::3])
