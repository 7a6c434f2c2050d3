"""Figures of a labelled test split, of whole images and of their pixels."""

from typing import Any

import numpy as np
from scipy import ndimage
from sklearn import metrics

FPR_LIMIT = 0.3


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


def pixel_metrics(masks: np.ndarray, heat: np.ndarray) -> dict[str, float]:
    """Pixel AUROC and AUPRO of heat maps.

    AUPRO is the area below the per-region overlap (the mean, over all connected defect regions, of the
    share found) against the share of sound pixels flagged, up to FPR_LIMIT, in [0, 1]. Regions count
    alike when every defect pixel weighs one over its region's size, so it is a weighted ROC's area.

    Args:
        masks: `[N, H, W]` of 0 (sound) and 1 (defect), both present.
        heat: `[N, H, W]`.
    """
    weights = np.ones(masks.shape)
    for mask, weight in zip(masks, weights):
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        weight[mask > 0] = 1 / sizes[regions[mask > 0]]
    labels, scores = masks.ravel() > 0, heat.ravel()
    fpr, overlap, _ = metrics.roc_curve(labels, scores, sample_weight=weights.ravel())
    at_limit = np.interp(FPR_LIMIT, fpr, overlap)
    inside = fpr < FPR_LIMIT
    x, y = np.append(fpr[inside], FPR_LIMIT), np.append(overlap[inside], at_limit)
    return {
        "pixel_auroc": float(metrics.roc_auc_score(labels, scores)),
        "aupro": float(np.trapezoid(y, x) / FPR_LIMIT),
    }
