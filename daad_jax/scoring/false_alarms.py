"""Bounds the true false-alarm rate of a threshold with confidence; the promised rate is only an average.

The threshold is the k-th largest of n held-out scores. The true rate is the share of new normal images above
the threshold. It depends on the images that happened to be held out, so it is a random number. If new normal
images are drawn as the held-out ones, its distribution is Beta(k, n + 1 - k) for every model (Wilks 1941;
Vovk 2012). If scores can be equal, the true rate is smaller still. If images come in groups, n counts groups.
The distribution is then an upper approximation, because shares of groups vary less than single images do.
"""

import math

import numpy as np

CONFIDENCE = 0.95  # of the bounds that are printed
ROUNDING = 1e-9


def count_above(held_out: int, rate: float) -> int:
    """The k of the threshold: it is the k-th largest held-out score, for a false-alarm rate on average."""
    return max(1, math.floor((held_out + 1) * rate + ROUNDING))


def bound_rate(held_out: int, rate: float, confidence: float = CONFIDENCE) -> float:
    """The upper bound of the true false-alarm rate of the threshold for `rate`, with this confidence.

    Args:
        held_out: the number n of held-out images, or of groups of them.
        rate: the false-alarm rate on average, for which the threshold was chosen.
        confidence: how probable it is that the true rate is at most the bound, in (0, 1).

    Returns:
        The bound, in (0, 1).
    """
    from scipy.stats import beta

    k = count_above(held_out, rate)
    return float(beta.ppf(confidence, k, held_out + 1 - k))


def images_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """How many held-out images, or groups, are needed to promise a true rate of `rate` with confidence.

    With so many, the largest held-out score is such a threshold: it fails if none of n images is among the
    `rate` highest, which has the probability (1 - rate)^n.
    """
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate) - ROUNDING))


def average_rate(held_out: int, rate: float, confidence: float = CONFIDENCE) -> float | None:
    """The rate on average of the lowest threshold whose true rate is at most `rate`, with this confidence.

    Returns:
        k / (n + 1) for the largest k with P(Beta(k, n + 1 - k) <= rate) >= confidence; None if there is none,
        because fewer than `images_needed` are held out.
    """
    from scipy.stats import beta

    k = np.arange(1, held_out + 1)
    holds = int((beta.cdf(rate, k, held_out + 1 - k) >= confidence - ROUNDING).sum())
    return holds / (held_out + 1) if holds else None
