"""The bootstrap interval against plain resampling with scikit-learn, and where the answer is known."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from daad_jax.evaluation import bootstrap
from daad_jax.evaluation.bootstrap import auroc_interval, pixel_auroc_interval

RNG = np.random.default_rng(0)


def draw(normal, anomalous, gap, digits=9):
    labels = np.repeat([0, 1], [normal, anomalous])
    return labels, (RNG.normal(size=len(labels)) + gap * labels).round(digits)


@pytest.mark.parametrize("digits", [9, 0])  # 0: many equal scores
def test_the_interval_is_that_of_plain_resampling(digits):
    labels, scores = draw(40, 25, 1.0, digits)
    drawn = [RNG.choice(scores[labels == label], (4000, count)) for label, count in ((0, 40), (1, 25))]
    # By the sum of the anomalous images' ranks (Mann and Whitney).
    ranks = rankdata(np.concatenate(drawn, axis=1), axis=1)
    aurocs = (ranks[:, 40:].sum(axis=1) - 25 * 26 / 2) / (40 * 25)
    assert aurocs[0] == pytest.approx(roc_auc_score(labels, np.concatenate([d[0] for d in drawn])))
    expected = np.quantile(aurocs, [0.025, 0.975])
    np.testing.assert_allclose(auroc_interval(labels, scores), expected, atol=0.015)


def test_each_sample_has_the_auroc_of_its_images(monkeypatch):
    """A single sample, drawn again in the same way: the interval is its AUROC by scikit-learn."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1)
    labels, scores = draw(12, 9, 0.5, 1)
    rng = np.random.default_rng(bootstrap.SEED)
    repeats = np.concatenate([rng.multinomial(n, np.full(n, 1 / n), 1)[0] for n in (12, 9)])
    expected = roc_auc_score(np.repeat(labels, repeats), np.repeat(scores, repeats))
    assert auroc_interval(labels, scores) == pytest.approx((expected, expected))


def test_coverage(monkeypatch):
    """Of 200 test sets from known distributions, about 95 % of the intervals have the true AUROC."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    true = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    inside = [low <= true <= high for low, high in (auroc_interval(*draw(50, 50, 1.0)) for _ in range(200))]
    assert 0.88 <= np.mean(inside) <= 0.99


def test_known_answers():
    labels = np.array([0, 0, 1, 1, 1])
    assert auroc_interval(labels, labels.astype(float)) == (1, 1)
    assert auroc_interval(labels, -labels.astype(float)) == (0, 0)
    assert auroc_interval(labels, np.zeros(5)) == (0.5, 0.5)
    labels, scores = draw(30, 30, 1.0)
    assert auroc_interval(labels, scores) == auroc_interval(labels, scores)
    low, high = auroc_interval(labels, scores)
    assert low < roc_auc_score(labels, scores) < high


def test_few_at_once_are_the_same_samples(monkeypatch):
    labels, scores = draw(30, 20, 0.7)
    expected = auroc_interval(labels, scores)
    monkeypatch.setattr(bootstrap, "VALUES_AT_ONCE", 120)
    np.testing.assert_allclose(auroc_interval(labels, scores), expected, rtol=1e-12)


def test_pixels_by_plain_resampling_of_images(monkeypatch):
    """Each of a few samples, with the AUROC of all its pixels by scikit-learn."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 3)
    monkeypatch.setattr(bootstrap, "PIXEL_BINS", 4000)
    masks = [np.zeros((12, 9 + i), int) for i in range(14)]
    for mask in masks[6:]:
        mask[3:7, 2:6] = 1
    heat = [RNG.normal(size=mask.shape) + mask * RNG.normal(1.0, 0.5) for mask in masks]
    rng = np.random.default_rng(bootstrap.SEED)
    draws = [rng.multinomial(n, np.full(n, 1 / n), 3) for n in (6, 8)]
    aurocs = []
    for repeats in np.concatenate(draws, axis=1):
        pixels = [(m.ravel(), h.ravel()) for m, h, n in zip(masks, heat, repeats) for _ in range(n)]
        aurocs.append(roc_auc_score(*(np.concatenate(each) for each in zip(*pixels))))
    expected = np.quantile(aurocs, [0.025, 0.975])
    np.testing.assert_allclose(pixel_auroc_interval(masks, heat), expected, atol=1e-3)
    # Equal heat everywhere orders nothing.
    assert pixel_auroc_interval(masks, [np.ones(m.shape) for m in masks]) == (0.5, 0.5)
