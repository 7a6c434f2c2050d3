"""Tests whether the images that are marked as good are a fair sample of all good images.

A threshold keeps its promise only if its images were chosen without regard to their scores. An inspector who
looks at the highest scores first, and stops early, has marked images with unusually high scores. The
threshold is then too high, and defects pass.
"""

import numpy as np

LEVEL = 0.01  # the test reports a bias by mistake with this probability
MIN_IMAGES = 8  # marked and unmarked images or groups each; fewer of them show nothing


def describe_bias(scores: np.ndarray, is_good: np.ndarray, is_free: np.ndarray, groups: np.ndarray) -> str:
    """Returns one line if the marked images score higher than the unmarked ones; "" if chance explains this.

    The test is the one-sided two-sample Kolmogorov-Smirnov test. The scores of images of one group depend on
    each other, so one image of each group counts. Defects among the unmarked images raise their scores. They
    can hide a bias, but they cannot cause a false report.

    Args:
        scores: the scores of all images, `[N]`; NaN if an image has no score.
        is_good: whether an image is marked as good, bool `[N]`.
        is_free: whether an image has no mark, bool `[N]`.
        groups: images with equal numbers belong together, `[N]`.
    """
    from scipy.stats import ks_2samp

    is_free = is_free & ~np.isnan(scores)
    marked, unmarked = (_one_of_each_group(scores[chosen], groups[chosen]) for chosen in (is_good, is_free))
    if min(len(marked), len(unmarked)) < MIN_IMAGES:
        return ""
    if ks_2samp(marked, unmarked, alternative="less").pvalue > LEVEL:
        return ""
    return (
        f"The {is_good.sum()} images that are marked as good score higher than the {is_free.sum()} without a "
        "mark, so they are no fair sample, and this threshold is too high: defects may pass. Choose the "
        'order "random sample", mark images in this order, and calibrate again; or mark all images.'
    )


def _one_of_each_group(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The score of one image of each group, drawn at random: `[N]`, `[N]` -> `[groups]`."""
    order = np.random.default_rng(0).permutation(len(scores))
    _, first = np.unique(groups[order], return_index=True)
    return scores[order][first]
