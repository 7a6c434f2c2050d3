"""Computes the figures of a labelled test split: for whole images and for pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn import metrics

FPR_LIMIT = 0.3  # AUPRO uses the thresholds that flag at most this share of sound pixels


def compute_image_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Computes AUROC and average precision of the scores, and F1 and the confusion of `score > threshold`.

    Args:
        labels: the labels, 0 (normal) or 1 (anomalous), `[N]`. Both labels must be present.
        scores: the anomaly scores, `[N]`.
        threshold: the threshold, which comes from held-out normal images and never from these images.
    """
    is_flagged = scores > threshold
    (normal, false_alarms), (missed, found) = metrics.confusion_matrix(labels, is_flagged, labels=[0, 1])
    return {
        "auroc": float(metrics.roc_auc_score(labels, scores)),
        "average_precision": float(metrics.average_precision_score(labels, scores)),
        "f1": float(metrics.f1_score(labels, is_flagged, zero_division=0)),
        "true_normal": int(normal),
        "false_alarms": int(false_alarms),
        "missed": int(missed),
        "found": int(found),
    }


def compute_pixel_metrics(
    masks: Sequence[np.ndarray] | np.ndarray, heat: Sequence[np.ndarray] | np.ndarray
) -> dict[str, float]:
    """Computes pixel AUROC and AUPRO of heat maps.

    AUPRO plots the per-region overlap against the share of sound pixels flagged, over all thresholds. The
    overlap is the share of a defect region that is flagged, averaged over all connected regions. AUPRO is the
    area below this curve up to FPR_LIMIT, divided by FPR_LIMIT, so it lies in [0, 1].

    All regions count the same, because the weight of a defect pixel is one over the size of its region. The
    curve is then an ROC curve with weights.

    Args:
        masks: N masks `[H, W]` of 0 (sound) and 1 (defect). Both values must be present.
        heat: N heat maps. Each one has the size of its mask.
    """
    # Weigh the pixels: 1 for a sound pixel, 1 / (size of the region) for a pixel of a defect.
    weights = []
    for mask in masks:
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        weight = np.ones(mask.shape)
        weight[mask > 0] = 1 / sizes[regions[mask > 0]]
        weights.append(weight)

    # Compute the curve, and cut it at the limit, between two of its points.
    labels, scores, of_pixels = (
        np.concatenate([np.ravel(v) for v in each]) for each in (masks, heat, weights)
    )
    labels = labels > 0
    fpr, overlap, _ = metrics.roc_curve(labels, scores, sample_weight=of_pixels)
    at_limit = np.interp(FPR_LIMIT, fpr, overlap)
    is_inside = fpr < FPR_LIMIT
    x, y = np.append(fpr[is_inside], FPR_LIMIT), np.append(overlap[is_inside], at_limit)
    return {
        "pixel_auroc": float(metrics.roc_auc_score(labels, scores)),
        "aupro": float(np.trapezoid(y, x) / FPR_LIMIT),
    }
