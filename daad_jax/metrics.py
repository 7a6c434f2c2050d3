"""Image-level figures of a labelled test split."""

from typing import Any

import numpy as np
from sklearn import metrics


def image_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """AUROC and average precision of the scores; F1 and confusion of `score > threshold`.

    Args:
        labels: `[N]` of 0 (normal) and 1 (anomalous), both present.
        scores: `[N]`.
        threshold: from held-out normal images, never from these.
    """
    verdicts = scores > threshold
    (normal, false_alarms), (missed, found) = metrics.confusion_matrix(labels, verdicts, labels=[0, 1])
    return {
        "auroc": float(metrics.roc_auc_score(labels, scores)),
        "average_precision": float(metrics.average_precision_score(labels, scores)),
        "f1": float(metrics.f1_score(labels, verdicts, zero_division=0)),
        "true_normal": int(normal),
        "false_alarms": int(false_alarms),
        "missed": int(missed),
        "found": int(found),
    }
