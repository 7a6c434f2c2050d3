"""Bounds the true false-alarm rate of a threshold with confidence; the promised rate is only an average.

The threshold is the k-th largest of n held-out scores. The true rate is the share of new normal images above
the threshold. It depends on the images that happened to be held out, so it is a random number. If new normal
images are drawn as the held-out ones, its distribution is Beta(k, n + 1 - k) for every model (Wilks 1941;
Vovk 2012). If scores can be equal, the true rate is smaller still. If images come in groups, n counts groups.
The distribution is then an upper approximation, because shares of groups vary less than single images do.
"""

import math

import numpy as np

CONFIDENCE = 0.95  # the confidence of the printed bounds
ROUNDING = 1e-9


def count_above(held_out: int, rate: float) -> int:
    """Returns k: the threshold for an average false-alarm rate is the k-th largest held-out score."""
    return max(1, math.floor((held_out + 1) * rate + ROUNDING))


def bound_rate(held_out: int, rate: float, confidence: float = CONFIDENCE) -> float:
    """Bounds the true false-alarm rate of the threshold for `rate` from above, with this confidence.

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
    """Returns the number n of held-out images, or groups, that a true rate of `rate` with confidence needs.

    The threshold is then the largest held-out score. It fails if none of n images is among the `rate`
    highest, which has the probability (1 - rate)^n.
    """
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate) - ROUNDING))


def average_rate(held_out: int, rate: float, confidence: float = CONFIDENCE) -> float | None:
    """Finds the lowest threshold whose true rate is at most `rate` with this confidence.

    Returns:
        The average rate of this threshold: k / (n + 1) for the largest k with
        P(Beta(k, n + 1 - k) <= rate) >= confidence. None if fewer than `images_needed` images are held out.
    """
    from scipy.stats import beta

    k = np.arange(1, held_out + 1)
    holds = int((beta.cdf(rate, k, held_out + 1 - k) >= confidence - ROUNDING).sum())
    return holds / (held_out + 1) if holds else None
