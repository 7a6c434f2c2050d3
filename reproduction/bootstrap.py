"""How far an AUROC depends on the test images that happened to be drawn: an interval by resampling them."""

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0


def auroc_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The percentile interval of the AUROC over bootstrap samples of the images (Efron and Tibshirani, 1993).

    The images of each label are drawn separately, so each sample has as many of both as the test set. The
    same test set always gives the same interval.

    Args:
        labels: 0 (normal) or 1 (anomalous), both present, `[N]`.
        scores: `[N]`.

    Returns:
        The lower and the upper end of the interval of 95 %, in [0, 1].
    """
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    # The AUROC is the share of pairs of images in the right order; an equal pair counts half. A sample draws
    # an image several times or not at all, which weighs the image's pairs.
    wins = (anomalous > normal[:, None]) + 0.5 * (anomalous == normal[:, None])
    rng = np.random.default_rng(SEED)
    of_normal, of_anomalous = (
        rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
        for count in (len(normal), len(anomalous))
    )
    aurocs = ((of_normal @ wins) * of_anomalous).sum(axis=1)
    low, high = np.quantile(aurocs, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
