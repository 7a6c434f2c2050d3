"""Scores the labelled test split with a checkpoint, and writes what came out."""

import csv
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax import workdir as files
from daad_jax.data import datasets
from daad_jax.data.samples import Split
from daad_jax.detector import Detections, Detector
from daad_jax.errors import UserError
from daad_jax.metrics import image_metrics, pixel_metrics
from daad_jax.plots import gallery, histogram


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint says of the labelled test split.

    `scores`, `p_values`, `reconstruction` and `alignment` `[N]` in the order of `test`; `image` and
    `pixel` are the figures (`pixel` None where there are no masks); `shown` are indices of the most
    telling images, and `shown_detections` what is said of those.
    """

    detector: Detector
    test: Split
    scores: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    image: dict[str, Any]
    pixel: dict[str, float] | None
    images_per_s: float
    shown: np.ndarray
    shown_detections: Detections


def evaluate(workdir: Path) -> Evaluation:
    """Prints the figures; writes `scores.csv`, `evaluation.json`, `scores.png` and `gallery.png`.

    Raises:
        UserError: no readable checkpoint, or a test split without normal and anomalous images.
    """
    detector = Detector.load(workdir)
    splits = datasets.load(detector.config)
    found = measure(detector, splits.test)
    files.write(workdir / "scores.csv", _table(found))
    report = {"step": detector.step, **found.image, **(found.pixel or {})}
    report |= {"threshold": detector.threshold, "calibration": asdict(detector.calibration)}
    files.write(workdir / "evaluation.json", json.dumps(report, indent=2))
    histogram(workdir / "scores.png", found.scores, found.test.labels, detector.threshold)
    gallery(workdir / "gallery.png", found.test.take(found.shown), found.shown_detections)
    print("\n".join(_summary(found)))
    print(f"wrote {workdir / 'scores.csv'}, evaluation.json, scores.png, gallery.png")
    return found


def measure(detector: Detector, test: Split) -> Evaluation:
    """Scores a labelled split.

    Raises:
        UserError: it lacks normal or anomalous images.
    """
    normal, anomalous = int((test.labels == 0).sum()), int(test.labels.sum())
    if not normal or not anomalous:
        raise UserError(
            f"config.data: the test split has {normal} normal and {anomalous} anomalous images; figures "
            "need both (test/good and test/<defect type> in a folder)"
        )
    # An anomalous image without a mask says nothing of its pixels.
    masked = np.zeros(len(test), bool)
    if test.masks is not None:
        masked = (test.labels == 0) | test.masks.any(axis=(1, 2))
    with_pixels = test.masks is not None and bool((masked & (test.labels == 1)).any())
    next(detector.score_prepared(test.images[: detector.batch_size]))  # compiles
    parts, heat, start = [], [], time.perf_counter()
    for part in detector.score_prepared(test.images):
        parts.append((part.scores, part.p_values, part.reconstruction, part.alignment))
        if with_pixels:
            heat.append(part.heat)
    seconds = time.perf_counter() - start
    scores, p_values, r, alignment = (np.concatenate(p) for p in zip(*parts))
    shown = _most_telling(test.labels, scores)
    return Evaluation(
        detector=detector,
        test=test,
        scores=scores,
        p_values=p_values,
        reconstruction=r,
        alignment=alignment,
        image=image_metrics(test.labels, scores, detector.threshold),
        pixel=pixel_metrics(test.masks[masked], np.concatenate(heat)[masked])
        if test.masks is not None and with_pixels
        else None,
        images_per_s=len(test) / seconds,
        shown=shown,
        shown_detections=detector.score(test.images[shown]),
    )


def _summary(found: Evaluation) -> list[str]:
    detector, image, labels = found.detector, found.image, found.test.labels
    calibration = detector.calibration
    rate, count = calibration.false_alarm_rate, len(calibration.scores)
    promised = calibration.promised_rate(rate)
    lines = [
        f"step {detector.step}, {len(labels)} test images, {found.images_per_s:.0f} images/s",
        f"image AUROC {image['auroc']:.4f}",
        f"average precision {image['average_precision']:.4f}",
        f"F1 {image['f1']:.4f} at threshold {detector.threshold:.4f}, which a normal image passes with "
        f"probability {promised:.3g} at most ({count} held-out normals)",
        f"of {int((labels == 0).sum())} normal: {image['false_alarms']} false alarms; "
        f"of {int(labels.sum())} anomalous: {image['found']} found, {image['missed']} missed",
    ]
    if promised > rate:
        lines.append(
            f"(the asked rate of {rate:g} needs {int(np.ceil(1 / rate)) - 1} held-out normal images)"
        )
    if found.pixel is None:
        lines.append("no pixel figures: the test set has no masks")
    else:
        lines.append(f"pixel AUROC {found.pixel['pixel_auroc']:.4f}, AUPRO {found.pixel['aupro']:.4f}")
    return lines


def _table(found: Evaluation) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "label", "defect_type", "R", "L", "A", "p_value", "verdict"])
    test, threshold = found.test, found.detector.threshold
    numbers = zip(found.reconstruction, found.alignment, found.scores, found.p_values)
    for name, label, kind, values in zip(test.names, test.labels, test.kinds, numbers):
        verdict = "anomalous" if values[2] > threshold else "normal"
        rows.writerow([name, int(label), kind, *(f"{v:.8g}" for v in values), verdict])
    return text.getvalue()


def _most_telling(labels: np.ndarray, scores: np.ndarray, each: int = 3) -> np.ndarray:
    """Lowest and highest scores of normal and of anomalous images: indices, normal ones first."""
    chosen = []
    for label in (0, 1):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(scores[order])]
        chosen.append(np.unique(np.concatenate([order[:each], order[-each:]])))
    return np.concatenate(chosen)
