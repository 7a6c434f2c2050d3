"""One cell: trained (or continued), evaluated, and what is kept of it."""

import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax import files
from daad_jax.data import datasets
from daad_jax.data.samples import Split, Splits
from daad_jax.detection.detector import Detector
from daad_jax.evaluation.figures import Evaluation, evaluate_split, find_known_pixels
from daad_jax.evaluation.metrics import compute_pixel_metrics
from daad_jax.training.loop import train
from daad_jax.training.workdir import CHECKPOINTS, environment
from reproduction import baselines, results
from reproduction.cells import BASELINES, DIVISIONS, Cell, recipe_of
from reproduction.results import Result, Stored

BINS = 40
SHOWN_NORMAL, SHOWN_ANOMALOUS = 4, 6
PICTURES = "shown.npz"


def run(cell: Cell, folder: Path) -> Stored:
    """Does what is left of a cell, and stores its result in its folder last of all.

    Raises:
        UserError: see `train`, `datasets.load` and `evaluate_split`.
        SystemExit: a signal came while it trained; what was done is saved.
    """
    with _clock(folder) as spent:
        found = _baseline(cell) if cell.row in BASELINES else _model(cell, folder)
        found["wall_s"] = round(spent(), 1)
    environment = _environment()
    name = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:10]
    found |= {"subject": cell.subject, "row": cell.row, "seed": cell.seed, "recipe": cell.recipe}
    found["figures"] = {key: round(value, 6) for key, value in found["figures"].items()}
    result = Result(**found, environment=name, date=f"{datetime.now(UTC):%Y-%m-%d}")
    stored = Stored(cell.table, {cell.recipe: recipe_of(cell)}, {name: environment}, [result])
    results.save(folder / "result.json", stored)
    return stored


def prune_checkpoints(folder: Path, step: int | None) -> None:
    """Removes a finished cell's checkpoints but the one of `step` (None: all)."""
    for path in (folder / CHECKPOINTS).glob("*"):
        if path.name != str(step):
            shutil.rmtree(path)


def _model(cell: Cell, folder: Path) -> dict[str, Any]:
    train(cell.config, folder)
    detector = Detector.load(folder)
    splits = datasets.load(detector.config)
    found = evaluate_split(detector, splits.test)
    figures = {k: v for k, v in found.image_metrics.items() if isinstance(v, float)} | (
        found.pixel_metrics or {}
    )
    if cell.config.data.protocol == "inspection":
        figures["levelled_auroc"] = _levelled(detector, splits)
    if cell.row in DIVISIONS:
        figures |= _errors(detector, splits)
    is_shown = cell.subject == cell.table.shown
    if is_shown:
        _keep_pictures(folder, detector, splits.test)
    return {
        "step": detector.step,
        "images": _counts(splits),
        "figures": figures,
        "images_per_s": _pace(folder),
        "histogram": _histogram(found) if is_shown else None,
    }


def _baseline(cell: Cell) -> dict[str, Any]:
    """A trivial score of the test images; the nearest ones are searched in all normal training images."""
    splits = datasets.load(cell.config)
    test, labels = np.asarray(splits.test.images), splits.test.labels
    normal = np.concatenate([splits.train.images[:], splits.calibration.images[:]])
    figures: dict[str, float] = {}
    if cell.row == "mean_intensity":
        figures["auroc"], brighter = baselines.either_direction(labels, baselines.mean_intensity(test))
        figures["anomalous_is_brighter"] = float(brighter)
    else:
        kind = cell.row.removeprefix("nearest_")
        images, references = (baselines.as_compared(x, kind) for x in (test, normal))
        found = baselines.nearest(images, references)
        figures["auroc"] = float(roc_auc_score(labels, found.squares))
        masked = find_known_pixels(splits.test)
        if splits.test.masks is not None and masked is not None:
            sigma = cell.config.score.heat_smoothing * min(test.shape[1:3])
            maps = baselines.difference_maps(images, references, found, sigma)
            figures |= compute_pixel_metrics(splits.test.masks[masked], maps[masked])
        if cell.config.data.protocol == "inspection":
            mean = float(baselines.mean_intensity(normal).mean())
            level = (baselines.as_compared(baselines.levelled(x, mean), kind) for x in (test, normal))
            figures["levelled_auroc"] = float(roc_auc_score(labels, baselines.nearest(*level).squares))
    return {"step": 0, "images": _counts(splits), "figures": figures, "images_per_s": 0.0}


def _levelled(detector: Detector, splits: Splits) -> float:
    """AUROC of test images that were all brought to the training images' mean intensity."""
    mean = float(baselines.mean_intensity(splits.train.images[:]).mean())
    images = baselines.levelled(np.asarray(splits.test.images), mean)
    scores = np.concatenate([found.scores for found in detector.score_prepared(images)])
    return float(roc_auc_score(splits.test.labels, scores))


def _errors(detector: Detector, splits: Splits) -> dict[str, float]:
    """Mean square error of reconstructions, pixels in [0, 1]: of held-out, normal and anomalous images."""

    def of(images: Any) -> np.ndarray:
        parts = detector.score_prepared(images)
        return np.concatenate([_squares(p.images, p.reconstructions) for p in parts])

    test, labels = of(splits.test.images), splits.test.labels
    return {
        "held_out_error": float(of(splits.calibration.images).mean()),
        "normal_error": float(test[labels == 0].mean()),
        "anomalous_error": float(test[labels == 1].mean()),
    }


def _squares(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    return ((images.astype(np.float32) - others) ** 2).mean(axis=(1, 2, 3)) / 255**2


def _histogram(found: Evaluation) -> dict[str, Any]:
    """Counts of scores by label between `low` and `high`; the last one also has all above."""
    scores, threshold = found.scores, found.detector.threshold
    low = min(float(scores.min()), threshold)
    high = max(float(np.quantile(scores, 0.99)), threshold) + 1e-6
    kept, labels = np.minimum(scores, high), found.test.labels
    normal, anomalous = (np.histogram(kept[labels == v], BINS, (low, high))[0].tolist() for v in (0, 1))
    ends = {"low": round(low, 6), "high": round(high, 6), "threshold": round(threshold, 6)}
    return {**ends, "normal": normal, "anomalous": anomalous}


def _keep_pictures(folder: Path, detector: Detector, test: Split) -> None:
    """Some images and their reconstructions: the first normal ones, and the first of some kinds, whatever
    their scores, so that all rows of a table show the same.
    """
    normal = np.flatnonzero(test.labels == 0)[:SHOWN_NORMAL]
    of_kind: dict[str, list[int]] = {}
    for index in np.flatnonzero(test.labels):
        of_kind.setdefault(test.kinds[index], []).append(int(index))
    # The first of every kind, then the second of every kind, and so on.
    by_turns = sorted((place, i) for indices in of_kind.values() for place, i in enumerate(indices))
    chosen = np.array([*normal, *(i for _, i in by_turns[:SHOWN_ANOMALOUS])])
    said = detector.score(test.images[chosen])
    kinds = np.array([test.kinds[i] for i in chosen])
    with files.replacing(folder / PICTURES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=said.images,
            reconstructions=said.reconstructions,
            labels=test.labels[chosen],
            kinds=kinds,
        )


@contextmanager
def _clock(folder: Path) -> Iterator[Callable[[], float]]:
    """Seconds spent on the cell, former attempts' among them (a kill's own are lost)."""
    path, start = folder / "spent_s", time.perf_counter()
    before = float(path.read_text()) if path.is_file() else 0.0

    def spent() -> float:
        return before + time.perf_counter() - start

    try:
        yield spent
    finally:
        files.write_text(path, f"{spent():.1f}")


def _pace(folder: Path) -> float:
    """The median of the logged images/s."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return round(statistics.median(json.loads(line)["images_per_s"] for line in text.splitlines()), 1)


def _counts(splits: Splits) -> dict[str, int]:
    anomalous = int(splits.test.labels.sum())
    return {
        "train": len(splits.train),
        "held_out": len(splits.calibration),
        "normal": len(splits.test) - anomalous,
        "anomalous": anomalous,
    }


def _environment() -> dict[str, Any]:
    """Versions and devices, without what names the machine."""
    known = environment()
    devices = jax.local_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = devices[0].platform == "cpu"
    processor = f"CPU, {cores} core{'s' * (cores != 1)}"
    device = processor if on_cpu else f"{len(devices)} x {devices[0].device_kind}"
    return {"python": known["python"], "packages": known["packages"], "device": device}
