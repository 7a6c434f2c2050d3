"""Scores the labelled test split with a checkpoint, and writes what came out."""

import csv
import io
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from daad_jax import checkpoint
from daad_jax import workdir as files
from daad_jax.data import datasets
from daad_jax.data.samples import Split
from daad_jax.errors import UserError
from daad_jax.metrics import image_metrics
from daad_jax.plots import gallery, histogram
from daad_jax.scoring import Scorer


def evaluate(workdir: Path) -> None:
    """Prints the figures; writes `scores.csv`, `evaluation.json`, `scores.png` and `gallery.png`.

    Raises:
        UserError: no readable checkpoint, or a test split without normal and anomalous images.
    """
    state, config, calibration = checkpoint.load(workdir)
    splits = datasets.load(config)
    test = splits.test
    if len(np.unique(test.labels)) < 2:
        raise UserError(
            f"config.data: the test split has {int((test.labels == 0).sum())} normal and "
            f"{int(test.labels.sum())} anomalous images; figures need both (test/good and "
            "test/<defect type> in a folder)"
        )
    variables = (
        state.generator.variables,
        state.discriminator.variables if state.discriminator else None,
    )
    scorer = Scorer(config)
    scorer.distances(variables, test.images[:1])  # compiles
    start = time.perf_counter()
    r, alignment = scorer.distances(variables, test.images)
    seconds = time.perf_counter() - start
    scores = calibration.score(r, alignment)
    found = image_metrics(test.labels, scores, calibration.threshold)

    files.write(workdir / "scores.csv", _table(test, r, alignment, scores, calibration.threshold))
    report = {"step": int(state.step), **found, "calibration": asdict(calibration)}
    files.write(workdir / "evaluation.json", json.dumps(report, indent=2))
    histogram(workdir / "scores.png", scores, test.labels, calibration.threshold)
    shown = _most_telling(test.labels, scores)
    rebuilt = scorer.reconstruct(variables, test.images[shown])
    gallery(workdir / "gallery.png", test.take(shown), rebuilt, scores[shown])

    print(f"step {int(state.step)}, {len(test)} test images, {len(test) / seconds:.0f} images/s")
    print(f"image AUROC {found['auroc']:.4f}")
    print(f"average precision {found['average_precision']:.4f}")
    print(
        f"F1 {found['f1']:.4f} at threshold {calibration.threshold:.4f} (the "
        f"{1 - calibration.false_alarm_rate:.0%} quantile of {int(calibration.images)} held-out normals)"
    )
    print(
        f"of {int((test.labels == 0).sum())} normal: {found['false_alarms']} false alarms; "
        f"of {int(test.labels.sum())} anomalous: {found['found']} found, {found['missed']} missed"
    )
    print(f"wrote {workdir / 'scores.csv'}, evaluation.json, scores.png, gallery.png")


def _table(test: Split, r: np.ndarray, alignment: np.ndarray, scores: np.ndarray, threshold: float) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "label", "defect_type", "R", "L", "A", "verdict"])
    for name, label, kind, *values in zip(test.names, test.labels, test.kinds, r, alignment, scores):
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
