"""Runs one cell: trains it or continues its training, evaluates it, and stores its result."""

import hashlib
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax import files
from daad_jax.data import datasets
from daad_jax.data.images import to_uint8
from daad_jax.data.samples import Split, Splits
from daad_jax.detection.detections import join_detections
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.evaluation.bootstrap import auroc_interval
from daad_jax.evaluation.figures import Evaluation, evaluate_split, find_known_pixels
from daad_jax.evaluation.metrics import compute_pixel_metrics
from daad_jax.training.loop import train
from daad_jax.training.workdir import CHECKPOINTS, environment
from reproduction import baselines, dirt, results
from reproduction.cells import BASELINES, DIRT_PERCENTS, DIRTY, DIVISIONS, Cell, make_recipe
from reproduction.results import Result, TableResults

HISTOGRAM_BINS = 40
PICTURED_NORMAL, PICTURED_ANOMALOUS = 4, 6  # the numbers of images in the picture of reconstructions
PICTURES_FILE = "shown.npz"  # this file and the next ones are in the folder of a cell
TIME_FILE = "spent_s"
TRAINING_TIME_FILE = "train_s"


def run_cell(cell: Cell, folder: Path) -> TableResults:
    """Runs the rest of a cell. The result is stored in the cell's folder as the last step.

    Args:
        cell: the cell.
        folder: the folder of the cell, which exists. It may have files of an earlier attempt.

    Raises:
        UserError: a figure is not finite; see also `train`, `datasets.load` and `evaluate_split`.
        SystemExit: a signal came during training; the state at that step is saved.
    """
    # Measure.
    with _stopwatch(folder / TIME_FILE) as spent_s:
        measured = _measure_baseline(cell) if cell.row in BASELINES else _train_and_measure(cell, folder)
        wall_s = round(spent_s(), 1)

    # Check and store the figures.
    tree = _describe_environment()
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]
    measured["figures"] = {key: round(value, 6) for key, value in measured["figures"].items()}
    for key, value in measured["figures"].items():
        if not math.isfinite(value):
            raise UserError(f"{key} is {value}, so this cell has no result; look at its images and scores")
    result = Result(
        subject=cell.subject,
        row=cell.row,
        seed=cell.seed,
        recipe=cell.recipe,
        environment=digest,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        wall_s=wall_s,
        **measured,
    )
    stored = TableResults(cell.table, {cell.recipe: make_recipe(cell)}, {digest: tree}, [result])
    results.save(folder / results.CELL_FILE, stored)
    return stored


def prune_checkpoints(folder: Path, step: int | None) -> None:
    """Removes the checkpoints of a finished cell, except the checkpoint of `step`. None removes all."""
    for path in (folder / CHECKPOINTS).glob("*"):
        if path.name != str(step):
            shutil.rmtree(path)


def _train_and_measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """Trains a network, or fills memories, and evaluates the last step. Returns fields of `Result`."""
    # Train. If the table compares costs, the images are decoded into the cache before the time begins.
    clean = datasets.load(cell.config) if cell.table.has_many_sources else None
    given = _mix_in_defects(cell, clean) if cell.row in DIRTY and clean else None
    with _stopwatch(folder / TRAINING_TIME_FILE) as spent_s:
        train(cell.config, folder, data=given.splits if given else None)
        train_s = spent_s()

    # Evaluate.
    detector = Detector.load(folder)
    splits = given.splits if given else datasets.load(detector.config)
    evaluation = evaluate_split(detector, splits.test)
    metrics = {k: v for k, v in evaluation.image_metrics.items() if isinstance(v, float)} | (
        evaluation.pixel_metrics or {}
    )
    if cell.table.has_many_sources:
        metrics |= _name_interval(splits.test.labels, evaluation.scores) | {
            "train_s": train_s,
            "scored_per_s": evaluation.images_per_s,
            "checkpoint_mb": _size_mb(folder / CHECKPOINTS / str(detector.step)),
        }
    if cell.config.data.protocol == "inspection" and not given:
        metrics["levelled_auroc"] = _corrected_auroc(detector, splits)
    if cell.row in DIVISIONS:
        metrics |= _reconstruction_errors(detector, splits)

    # Count the images, and keep some pictures.
    images = _count_images(splits)
    if given:
        images["mixed_in"] = len(given.mixed_in)
        if (found := dirt.count_found(folder, given.mixed_in)) is not None:
            metrics["found_suspects"] = float(found)
    is_pictured = cell.subject == cell.table.picture_subject
    if is_pictured:
        _keep_pictures(folder, detector, splits.test)
    return {
        "step": detector.step,
        "images": images,
        "figures": metrics,
        "images_per_s": 0.0 if cell.config.uses_coreset else _median_rate(folder),
        "histogram": _count_scores(evaluation) if is_pictured else None,
    }


def _mix_in_defects(cell: Cell, clean: Splits) -> dirt.DirtySplits:
    percent, most = DIRTY[cell.row].percent, max(DIRT_PERCENTS)
    return dirt.mix_in(clean, percent, most, cell.config.data.calibration_fraction, cell.config.seed)


def _name_interval(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Computes the bootstrap interval of the image AUROC, as figures."""
    return dict(zip(("auroc_low", "auroc_high"), auroc_interval(labels, scores)))


def _size_mb(folder: Path) -> float:
    """Returns the size of all files below a folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _measure_baseline(cell: Cell) -> dict[str, Any]:
    """Scores the test images without a network. Returns fields of `Result`.

    The nearest image is searched among all normal training images. These include the images that networks
    hold out.
    """
    splits = datasets.load(cell.config)
    test, labels = np.asarray(splits.test.images), splits.test.labels
    normal = np.concatenate([splits.train.images[:], splits.calibration.images[:]])
    metrics: dict[str, float] = {}

    # Score by brightness, or by the distance to the nearest image.
    if cell.row == "mean_intensity":
        scores = baselines.mean_intensity(test)
        metrics["auroc"], is_brighter = baselines.best_direction_auroc(labels, scores)
        metrics["anomalous_is_brighter"] = float(is_brighter)
        scores = scores if is_brighter else -scores
    else:
        distance = cell.row.removeprefix("nearest_")
        images, references = (baselines.prepare_images(x, distance) for x in (test, normal))
        nearest = baselines.find_nearest(images, references)
        scores = nearest.squares
        metrics["auroc"] = float(roc_auc_score(labels, scores))
        masked = find_known_pixels(splits.test)
        if splits.test.masks is not None and masked is not None:
            sigma = cell.config.score.heat_smoothing * min(test.shape[1:3])
            maps = baselines.difference_maps(images, references, nearest, sigma)
            metrics |= compute_pixel_metrics(splits.test.masks[masked], maps[masked])

        # Score once more without differences in brightness.
        if cell.config.data.protocol == "inspection":
            mean = float(baselines.mean_intensity(normal).mean())
            corrected = (baselines.correct_brightness(x, mean) for x in (test, normal))
            images, references = (baselines.prepare_images(x, distance) for x in corrected)
            squares = baselines.find_nearest(images, references).squares
            metrics["levelled_auroc"] = float(roc_auc_score(labels, squares))
    if cell.table.has_many_sources:
        metrics |= _name_interval(labels, scores)
    return {"step": 0, "images": _count_images(splits), "figures": metrics, "images_per_s": 0.0}


def _corrected_auroc(detector: Detector, splits: Splits) -> float:
    """Computes the AUROC of test images that are all scaled to the mean intensity of the training images."""
    mean = float(baselines.mean_intensity(splits.train.images[:]).mean())
    images = baselines.correct_brightness(np.asarray(splits.test.images), mean)
    scores = np.concatenate([batch.scores for batch in detector.score_prepared(images)])
    return float(roc_auc_score(splits.test.labels, scores))


def _reconstruction_errors(detector: Detector, splits: Splits) -> dict[str, float]:
    """Computes the mean square errors of held-out, normal and anomalous images, for pixels in [0, 1]."""

    def image_errors(images: Any) -> np.ndarray:
        batches = detector.score_prepared(images)
        pairs = ((b.images, b.reconstructions) for b in batches)
        return np.concatenate(
            [
                _mean_squares(np.asarray(images), np.asarray(rebuilt))
                for images, rebuilt in pairs
                if rebuilt is not None
            ]
        )

    test, labels = image_errors(splits.test.images), splits.test.labels
    return {
        "held_out_error": float(image_errors(splits.calibration.images).mean()),
        "normal_error": float(test[labels == 0].mean()),
        "anomalous_error": float(test[labels == 1].mean()),
    }


def _mean_squares(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    largest = float(np.iinfo(images.dtype).max)
    return ((images.astype(np.float32) - others) ** 2).mean(axis=(1, 2, 3)) / largest**2


def _count_scores(evaluation: Evaluation) -> dict[str, Any]:
    """Counts the scores of each label in bins from "low" to "high". The last bin has higher scores, too."""
    scores, threshold = evaluation.scores, evaluation.detector.threshold
    low = min(float(scores.min()), threshold)
    high = max(float(np.quantile(scores, 0.99)), threshold) + 1e-6
    clipped, labels = np.minimum(scores, high), evaluation.test.labels
    normal, anomalous = (
        np.histogram(clipped[labels == label], HISTOGRAM_BINS, (low, high))[0].tolist() for label in (0, 1)
    )
    ends = {"low": round(low, 6), "high": round(high, 6), "threshold": round(threshold, 6)}
    return {**ends, "normal": normal, "anomalous": anomalous}


def _keep_pictures(folder: Path, detector: Detector, test: Split) -> None:
    """Stores a few test images and their reconstructions.

    The choice does not depend on scores, so all rows of a table keep the same images: the first normal
    images, and the first images of some kinds of anomaly.
    """
    normal = np.flatnonzero(test.labels == 0)[:PICTURED_NORMAL]
    by_kind: dict[str, list[int]] = {}
    for index in np.flatnonzero(test.labels):
        by_kind.setdefault(test.kinds[index], []).append(int(index))
    # The first image of every kind, then the second image of every kind, and so on.
    in_turns = sorted((place, i) for indices in by_kind.values() for place, i in enumerate(indices))
    chosen = np.array([*normal, *(i for _, i in in_turns[:PICTURED_ANOMALOUS])])
    verdicts = join_detections(detector.score_prepared(test.images[chosen]))
    if verdicts.reconstructions is None:  # features cannot be shown as a picture
        return
    with files.replacing(folder / PICTURES_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=to_uint8(np.asarray(verdicts.images)),
            reconstructions=to_uint8(np.asarray(verdicts.reconstructions)),
            labels=test.labels[chosen],
            kinds=np.array([test.kinds[i] for i in chosen]),
        )


@contextmanager
def _stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Measures the seconds spent in the block, in this attempt and in earlier ones. The file keeps the sum.

    If the process is killed, the time of this attempt is lost. If the file is damaged, all earlier time is
    lost.
    """
    start, before = time.perf_counter(), 0.0
    with suppress(FileNotFoundError, ValueError):
        before = float(path.read_text(encoding="ascii"))

    def spent_s() -> float:
        return before + time.perf_counter() - start

    try:
        yield spent_s
    finally:
        files.write_text(path, f"{spent_s():.1f}")


def _median_rate(folder: Path) -> float:
    """Returns the median of the logged images/s."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return round(statistics.median(json.loads(line)["images_per_s"] for line in text.splitlines()), 1)


def _count_images(splits: Splits) -> dict[str, int]:
    anomalous = int(splits.test.labels.sum())
    return {
        "train": len(splits.train),
        "held_out": len(splits.calibration),
        "normal": len(splits.test) - anomalous,
        "anomalous": anomalous,
    }


def _describe_environment() -> dict[str, Any]:
    """Describes versions and devices, without any detail that identifies the machine."""
    versions = environment()
    devices = jax.local_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = devices[0].platform == "cpu"
    processor = f"CPU, {cores} core{'s' * (cores != 1)}"
    device = processor if on_cpu else f"{len(devices)} x {devices[0].device_kind}"
    return {"python": versions["python"], "packages": versions["packages"], "device": device}
