"""Computes intervals of AUROCs by resampling the test images, because other test images give other figures.

The interval is the percentile interval over bootstrap samples of the images (Efron and Tibshirani 1993). The
images of each label are drawn separately, so each sample has as many normal and as many anomalous images as
the test set. The same test set always gives the same interval.
"""

from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
VALUES_AT_ONCE = 2**22  # image weights in memory at once; this bounds the memory for large test sets
PIXEL_BINS = 1024

Interval = tuple[float, float]  # the lower and the upper end, in [0, 1]


def auroc_interval(labels: np.ndarray, scores: np.ndarray) -> Interval:
    """Computes the 95 % interval of an image AUROC. `sample_aurocs` explains the arguments."""
    return interval_of(sample_aurocs(labels, scores))


def sample_aurocs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes the AUROC of each bootstrap sample of the images: `[RESAMPLES]`.

    Two calls with the same labels draw the same images, so that two models are compared on the same samples.

    Args:
        labels: the labels, 0 (normal) or 1 (anomalous), `[N]`. Both labels must be present.
        scores: the anomaly scores, `[N]`.
    """
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    # The AUROC is the share of (normal, anomalous) pairs in the right order; an equal pair counts half. A
    # sample draws an image several times or not at all. This number is the weight of all pairs with the
    # image.
    order = np.argsort(normal)
    below, up_to = (np.searchsorted(normal[order], anomalous, side=side) for side in ("left", "right"))
    aurocs = []
    for of_normal, of_anomalous in _draw_weights(len(normal), len(anomalous)):
        sums = np.pad(np.cumsum(of_normal[:, order], axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        wins = (of_anomalous * (sums[:, below] + sums[:, up_to])).sum(axis=1) / 2
        aurocs.append(wins / (len(normal) * len(anomalous)))
    return np.concatenate(aurocs)


def pixel_auroc_interval(
    masks: Sequence[np.ndarray] | np.ndarray, heat: Sequence[np.ndarray] | np.ndarray
) -> Interval:
    """Computes the 95 % interval of the pixel AUROC over bootstrap samples of whole images.

    Images with and without defects are drawn separately. The pixels are sorted by their heat into bins of
    about equal size, and the pixels of one bin count as equal. This changes the AUROC by less than half a
    thousandth.

    Args:
        masks: N masks `[H, W]` of 0 (sound) and 1 (defect).
        heat: N heat maps. Each one has the size of its mask.
    """
    # Count the sound and the defective pixels of each image in each bin.
    edges = _find_edges(heat)
    counts = [np.zeros((len(masks), len(edges) + 1), np.float32) for _ in range(2)]
    for i, (mask, values) in enumerate(zip(masks, heat)):
        bins = np.searchsorted(edges, np.ravel(values), side="right")
        for label in (0, 1):
            counts[label][i] = np.bincount(bins[np.ravel(mask > 0) == label], minlength=len(edges) + 1)

    # Compute the AUROC of each sample from the counts of its images.
    has_defect = counts[1].any(axis=1)
    sound, defective = np.flatnonzero(~has_defect), np.flatnonzero(has_defect)
    aurocs = []
    for of_sound, of_defective in _draw_weights(len(sound), len(defective)):
        pixels = [
            of_sound.astype(np.float32) @ each[sound] + of_defective.astype(np.float32) @ each[defective]
            for each in counts
        ]
        of_sound_pixels, of_defect_pixels = (each.astype(np.float64) for each in pixels)
        below = np.cumsum(of_sound_pixels, axis=1) - of_sound_pixels / 2
        totals = of_sound_pixels.sum(axis=1) * of_defect_pixels.sum(axis=1)
        aurocs.append((of_defect_pixels * below).sum(axis=1) / totals)
    return interval_of(np.concatenate(aurocs))


def describe_interval(interval: Interval) -> str:
    """Returns the interval as text, for instance "[0.9012, 0.9834]"."""
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _find_edges(heat: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns the edges of bins of heat with about equally many pixels, ascending and without repeats."""
    total = sum(np.size(values) for values in heat)
    stride = max(1, total // 2**22)
    some = np.concatenate([np.ravel(values)[::stride] for values in heat])
    return np.unique(np.quantile(some, np.linspace(0, 1, PIXEL_BINS)[1:-1]))


def _draw_weights(normal: int, anomalous: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields how often S samples draw each image: `[S, normal]` and `[S, anomalous]`, for all samples."""
    rng = np.random.default_rng(SEED)
    at_once = max(1, VALUES_AT_ONCE // (normal + anomalous))
    drawn = []
    for count in (normal, anomalous):  # all draws of one label come first, so that S changes no draw
        sizes = [min(at_once, RESAMPLES - first) for first in range(0, RESAMPLES, at_once)]
        shares = np.full(count, 1 / count)
        drawn.append([rng.multinomial(count, shares, size).astype(np.uint16) for size in sizes])
    yield from zip(*drawn)


def interval_of(samples: np.ndarray) -> Interval:
    """Returns the 95 % interval of a figure, from the figure's values in bootstrap samples `[RESAMPLES]`."""
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
