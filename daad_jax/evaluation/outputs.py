"""Scores the labelled test split with a checkpoint, and writes what came out."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from daad_jax import files
from daad_jax.data import datasets
from daad_jax.detection.detector import Detector
from daad_jax.evaluation import charts, report
from daad_jax.evaluation.figures import Evaluation, measure
from daad_jax.files import explain_write_errors
from daad_jax.scoring.anomaly_score import shortage


def evaluate(workdir: Path, batch_size: int | None = None) -> Evaluation:
    """Prints the figures; writes `scores.csv`, `evaluation.json`, `report.html` and its two pictures.

    Args:
        workdir: of the run.
        batch_size: images a device scores at once, instead of `config.score.batch_size`.

    Raises:
        UserError: no readable checkpoint, a test split without normal and anomalous images, or a workdir
            that cannot be written.
    """
    detector = Detector.load(workdir, batch_size)
    splits = datasets.load(detector.config)
    found = measure(detector, splits.test)
    print("\n".join(_summary(found)))
    figures = {"step": detector.step, **found.image, **(found.pixel or {})}
    figures |= {"threshold": detector.threshold, "calibration": asdict(detector.calibration)}
    columns = _ends(found.test.labels[found.shown], found.shown_detections.scores)
    with explain_write_errors(workdir, "make room there, or give --workdir a copy that can be written"):
        files.write_text(workdir / "scores.csv", _table(found))
        files.write_text(workdir / "evaluation.json", json.dumps(figures, indent=2))
        scores = charts.histogram(found.scores, found.test.labels, detector.threshold, charts.PAPER, (7, 3.5))
        charts.save_png(scores, workdir / "scores.png")
        gallery = charts.gallery(found.test.take(found.shown), found.shown_detections, columns)
        charts.save_png(gallery, workdir / "gallery.png")
        files.write_text(workdir / "report.html", report.render(found, workdir))
    print(f"wrote scores.csv, evaluation.json, scores.png, gallery.png and {workdir / 'report.html'}")
    return found


def _summary(found: Evaluation) -> list[str]:
    detector, image, labels = found.detector, found.image, found.test.labels
    rate, count = detector.calibration.false_alarm_rate, len(detector.calibration.scores)
    promised = found.promised_rate
    lines = [
        f"step {detector.step}, {len(labels)} test images, {found.images_per_s:.0f} images/s",
        f"image AUROC {image['auroc']:.4f}",
        f"average precision {image['average_precision']:.4f}",
        f"F1 {image['f1']:.4f} at threshold {detector.threshold:.4f}, which a normal image passes with "
        f"probability {promised:.3g} at most ({count} held-out normals)",
        f"of {int((labels == 0).sum())} normal: {image['false_alarms']} false alarms; "
        f"of {int(labels.sum())} anomalous: {image['found']} found, {image['missed']} missed",
    ]
    if few := shortage(count, rate):
        lines.append(f"warning: {few}")
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


def _ends(labels: np.ndarray, scores: np.ndarray, each: int = 3) -> np.ndarray:
    """Lowest and highest scores of normal and of anomalous images: indices, normal ones first."""
    chosen = []
    for label in (0, 1):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(scores[order])]
        chosen.append(np.unique(np.concatenate([order[:each], order[-each:]])))
    return np.concatenate(chosen)
