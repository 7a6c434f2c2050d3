"""Tests whether the images that are marked as good are a fair sample of all good images.

A threshold keeps its promise only if its images were chosen without regard to their scores. An inspector who
looks at the highest scores first, and stops early, has marked images with unusually high scores. The
threshold is then too high, and defects pass.
"""

import numpy as np

LEVEL = 0.01  # the test reports a bias by mistake with this probability
MIN_IMAGES = 8  # marked and unmarked ones each; fewer images show nothing


def describe_bias(marked: np.ndarray, unmarked: np.ndarray) -> str:
    """Returns one line if the marked images score higher than the unmarked ones; "" if chance explains this.

    The test is the one-sided two-sample Kolmogorov-Smirnov test. Defects among the unmarked images raise
    their scores. They can hide a bias, but they cannot cause a false report.

    Args:
        marked: scores of the images that are marked as good, `[N]`.
        unmarked: scores of the images without a mark, `[M]`; NaN if an image has no score.
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
