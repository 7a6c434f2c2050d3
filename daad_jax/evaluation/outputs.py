"""Evaluates a run on its labelled test split, prints the figures and writes the files of the evaluation."""

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
from daad_jax.evaluation.figures import Evaluation, evaluate_split
from daad_jax.files import explain_write_errors


def evaluate(workdir: Path, batch_size: int | None = None, *, check: bool = False) -> Evaluation:
    """Evaluates the newest checkpoint of a run, and prints its figures.

    Writes `scores.csv`, `evaluation.json`, `scores.png`, `gallery.png` and `report.html` into the workdir.

    Args:
        workdir: of the run.
        batch_size: images a device scores at once, instead of `config.score.batch_size`.
        check: whether to read all image files again, see `train`.

    Raises:
        UserError: there is no readable checkpoint, the test split has no normal or no anomalous images, or
            the workdir cannot be written.
    """
    detector = Detector.load(workdir, batch_size)
    splits = datasets.load(detector.config, check)
    evaluation = evaluate_split(detector, splits.test)
    print("\n".join(_summarise(evaluation)))
    labels, gallery_indices = evaluation.test.labels, evaluation.gallery_indices
    figures = {"step": detector.step, **evaluation.image_metrics, **(evaluation.pixel_metrics or {})}
    figures |= {"threshold": detector.threshold, "calibration": asdict(detector.calibration)}
    with explain_write_errors(workdir, "make room there, or give --workdir a copy that can be written"):
        files.write_text(workdir / "scores.csv", _format_scores(evaluation))
        files.write_text(workdir / "evaluation.json", json.dumps(figures, indent=2))
        histogram = charts.draw_histogram(
            evaluation.scores, labels, detector.threshold, charts.PAPER, charts.WIDE
        )
        charts.save_png(histogram, workdir / "scores.png")
        columns = _select_extremes(labels[gallery_indices], evaluation.gallery_detections.scores)
        gallery = charts.draw_gallery(
            evaluation.test.take(gallery_indices), evaluation.gallery_detections, columns
        )
        charts.save_png(gallery, workdir / "gallery.png")
        files.write_text(workdir / "report.html", report.render(evaluation, workdir))
    print(f"Wrote scores.csv, evaluation.json, scores.png, gallery.png and {workdir / 'report.html'}.")
    return evaluation


def _summarise(evaluation: Evaluation) -> list[str]:
    """The lines that are printed."""
    detector, metrics, labels = evaluation.detector, evaluation.image_metrics, evaluation.test.labels
    calibration, rate = detector.calibration, detector.calibration.false_alarm_rate
    normal, anomalous = int((labels == 0).sum()), int(labels.sum())
    lines = [
        f"Scored {len(labels)} test images with the checkpoint of step {detector.step}, at "
        f"{evaluation.images_per_s:.0f} images/s.",
        f"image AUROC {metrics['auroc']:.4f}",
        f"average precision {metrics['average_precision']:.4f}",
    ]
    if evaluation.pixel_metrics is None:
        lines.append("There are no pixel figures, because no anomalous test image has a mask.")
    else:
        lines.append(f"pixel AUROC {evaluation.pixel_metrics['pixel_auroc']:.4f}")
        lines.append(f"AUPRO {evaluation.pixel_metrics['aupro']:.4f}")
    lines += [
        f"F1 {metrics['f1']:.4f} at threshold {detector.threshold:.4f}. This threshold "
        f"{calibration.describe_promise(rate)}.",
        f"Here the threshold flags {metrics['false_alarms']} of {normal} normal test images (false alarms).",
        f"The threshold flags {metrics['found']} of {anomalous} anomalous test images and misses "
        f"{metrics['missed']}.",
    ]
    if warning := calibration.shortage(rate):
        lines.append(f"warning: {warning}")
    return lines


def _format_scores(evaluation: Evaluation) -> str:
    """The text of `scores.csv`: one row an image, in the order of the test split."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "label", "defect_type", "R", "L", "A", "p_value", "verdict"])
    test, threshold = evaluation.test, evaluation.detector.threshold
    numbers = zip(evaluation.reconstruction, evaluation.alignment, evaluation.scores, evaluation.p_values)
    for name, label, kind, (r, alignment, score, p_value) in zip(
        test.names, test.labels, test.kinds, numbers
    ):
        verdict = "anomalous" if score > threshold else "normal"
        values = (f"{value:.8g}" for value in (r, alignment, score, p_value))
        rows.writerow([name, int(label), kind, *values, verdict])
    return text.getvalue()


def _select_extremes(labels: np.ndarray, scores: np.ndarray, count: int = 3) -> np.ndarray:
    """Selects the `count` lowest and highest scores of each label: indices, normal images first."""
    extremes = []
    for label in (0, 1):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(scores[order])]
        extremes.append(np.unique(np.concatenate([order[:count], order[-count:]])))
    return np.concatenate(extremes)
