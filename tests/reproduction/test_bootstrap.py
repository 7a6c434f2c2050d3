"""The bootstrap interval against plain resampling with scikit-learn, and where the answer is known."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from reproduction import bootstrap
from reproduction.bootstrap import auroc_interval

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
