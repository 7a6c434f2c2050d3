"""Measures how well a score separates two sets of images."""

import numpy as np
from sklearn.metrics import roc_auc_score


def separation(normal: np.ndarray, corrupted: np.ndarray) -> float:
    """AUROC of scores `[N]` against scores `[M]`: 1 finds all corruptions, 0.5 is chance."""
    truth = np.repeat([0, 1], [len(normal), len(corrupted)])
    return float(roc_auc_score(truth, np.concatenate([normal, corrupted])))
