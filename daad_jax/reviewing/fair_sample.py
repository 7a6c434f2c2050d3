"""Whether the images that are marked as good are a fair sample of the good images.

A threshold keeps its promise only if the images that set it were chosen without regard to their scores.
Whoever reviews the highest scores first and stops early has marked unusually high ones. The threshold is then
too high, and defects pass.
"""

import numpy as np

LEVEL = 0.01  # of the test
MIN_IMAGES = 8  # or groups of them, of either kind; fewer tell nothing


def describe_bias(scores: np.ndarray, is_good: np.ndarray, is_free: np.ndarray, groups: np.ndarray) -> str:
    """One line if the marked images score higher than those that nobody has marked; "" if chance explains it.

    It is a one-sided two-sample Kolmogorov-Smirnov test. The scores of images of one group depend on each
    other, so one image of each group counts. Defects among the unmarked images raise their
    scores, so they can hide a bias, but they cannot make one.

    Args:
        scores: of all images, `[N]`; NaN for those without a score.
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
