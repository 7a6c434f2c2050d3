"""Whether the images that are marked as good are a fair sample of the good images.

A threshold keeps its promise only if the images that set it were chosen without regard to their scores.
Whoever reviews the highest scores first and stops early has marked unusually high ones. The threshold is then
too high, and defects pass.
"""

import numpy as np

LEVEL = 0.01  # of the test
MIN_IMAGES = 8  # of either kind; fewer tell nothing


def describe_bias(marked: np.ndarray, unmarked: np.ndarray) -> str:
    """One line if the marked images score higher than those that nobody has marked; "" if chance explains it.

    It is a one-sided two-sample Kolmogorov-Smirnov test. Defects among the unmarked images raise their
    scores, so they can hide a bias, but they cannot make one.

    Args:
        marked: scores of the images that are marked as good, `[N]`.
        unmarked: scores of the images without a mark, `[M]`; NaN for those without a score.
    """
    from scipy.stats import ks_2samp

    unmarked = unmarked[~np.isnan(unmarked)]
    if min(len(marked), len(unmarked)) < MIN_IMAGES:
        return ""
    if ks_2samp(marked, unmarked, alternative="less").pvalue > LEVEL:
        return ""
    return (
        f"The {len(marked)} images that are marked as good score higher than the {len(unmarked)} without a "
        "mark, so they are no fair sample, and this threshold is too high: defects may pass. Choose the "
        'order "random sample", mark images in this order, and calibrate again; or mark all images.'
    )
