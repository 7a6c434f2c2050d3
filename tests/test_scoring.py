"""The score against numpy and scipy, and its calibration."""

import numpy as np
import pytest
from scipy import ndimage

from daad_jax.config import Config
from daad_jax.metrics import image_metrics
from daad_jax.scoring import Calibration, calibrate, reconstruction_distance, smooth

RNG = np.random.default_rng(0)
X, Y = RNG.random((2, 3, 8, 6, 2)).astype(np.float32)


def test_distances():
    flat = [(x.ravel(), y.ravel()) for x, y in zip(X, Y)]
    for kind, expected in {
        "l2": [np.linalg.norm(x - y) for x, y in flat],
        "squared": [np.mean((x - y) ** 2) for x, y in flat],
        "cosine": [1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in flat],
    }.items():
        np.testing.assert_allclose(reconstruction_distance(X, Y, kind), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smoothing_is_scipys(sigma):
    expected = ndimage.gaussian_filter(X, (0, sigma, sigma, 0), mode="reflect", truncate=4)
    np.testing.assert_allclose(smooth(X, sigma), expected, rtol=1e-4, atol=1e-5)
    assert smooth(X, 0) is X


def test_calibration_is_the_quantile_of_normals():
    config = Config()
    config.score.gamma, config.score.false_alarm_rate = 0.7, 0.1
    r, alignment = RNG.normal(5, 2, 400), RNG.normal(100, 9, 400)
    found = calibrate(r, alignment, config)
    expected = 0.7 * (r - r.mean()) / r.std() + 0.3 * (alignment - alignment.mean()) / alignment.std()
    np.testing.assert_allclose(found.score(r, alignment), expected)
    assert np.mean(found.score(r, alignment) > found.threshold) == pytest.approx(0.1, abs=0.003)
    assert Calibration.from_json(found.to_json()) == found


def test_metrics_by_hand():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9])
    found = image_metrics(labels, scores, 0.55)
    assert found["auroc"] == 0.75
    assert [found[k] for k in ("true_normal", "false_alarms", "missed", "found")] == [1, 1, 1, 1]
    assert found["f1"] == 0.5
