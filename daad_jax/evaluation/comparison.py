"""Compares evaluated runs: their figures and differences, and the images with different verdicts."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from daad_jax.buckets import read_bytes, size_of
from daad_jax.errors import UserError
from daad_jax.evaluation.bootstrap import Interval, interval_of, sample_aurocs

MAX_FILE_BYTES = 2**28


@dataclass(frozen=True)
class EvaluatedRun:
    """The stored results of an evaluation of N test images.

    Attributes:
        folder: the folder of the run or of the evaluation.
        keys: one key for each image: its name, and how often this name has occurred so far, from 1.
        names: the names of the images, as `scores.csv` shows them.
        kinds: the kinds of defects, as `scores.csv` shows them.
        labels: the labels, 0 (normal) or 1 (anomalous), `[N]`.
        scores: the anomaly scores A(x), `[N]`.
        p_values: the p-values, `[N]`, in (0, 1].
        is_flagged: the verdicts, bool `[N]`.
        figures: the content of `evaluation.json`.
    """

    folder: Path
    keys: list[tuple[str, int]]
    names: list[str]
    kinds: list[str]
    labels: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray
    is_flagged: np.ndarray
    figures: dict[str, Any]

    def take(self, keys: Sequence[tuple[str, int]]) -> "EvaluatedRun":
        """Returns the run with only the images `keys`, in this order."""
        place = {key: i for i, key in enumerate(self.keys)}
        rows = np.array([place[key] for key in keys], int)
        return EvaluatedRun(
            self.folder, list(keys), [self.names[i] for i in rows], [self.kinds[i] for i in rows],
            self.labels[rows], self.scores[rows], self.p_values[rows], self.is_flagged[rows], self.figures,
        )  # fmt: skip

    def figure(self, name: str) -> float | None:
        """Returns a number of `evaluation.json`; None if the file has no such number."""
        value = self.figures.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def calibration(self) -> str:
        """The id of the calibration of the verdicts; "" if an older version evaluated the run."""
        label = self.figures.get("calibration_label")
        return str(label.get("id", "")) if isinstance(label, dict) else ""

    @property
    def is_right(self) -> np.ndarray:
        """Whether the verdict agrees with the label: bool `[N]`."""
        return self.is_flagged == (self.labels == 1)


@dataclass(frozen=True)
class Difference:
    """How a run differs from the first run on the same images.

    Attributes:
        auroc: the AUROC of this run minus the AUROC of the first run.
        interval: the 95 % bootstrap interval of `auroc`. Both runs get the same bootstrap samples.
        only_this: the number of images that only this run judges right.
        only_first: the number of images that only the first run judges right.
        p_value: the p-value of McNemar's exact test: the probability of counts at least as unequal as these,
            if both runs are right equally often.
    """

    auroc: float
    interval: Interval
    only_this: int
    only_first: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of runs on their common test images.

    Attributes:
        runs: the runs, with only the common images.
        aurocs: the image AUROC of each run.
        intervals: the 95 % interval of each AUROC.
        differences: the difference of every further run from the first run.
        disagreed: the indices of the images with different verdicts. Images whose ranks differ most come
            first.
        left_out: the number of images that not every run has tested.
    """

    runs: list[EvaluatedRun]
    aurocs: list[float]
    intervals: list[Interval]
    differences: list[Difference]
    disagreed: np.ndarray
    left_out: int


def compare_runs(runs: Sequence[EvaluatedRun]) -> Comparison:
    """Compares runs on the images that all of them have tested.

    Raises:
        UserError: the common images do not have both labels, or the runs disagree on a label.
    """
    # Find the common images, and refuse other labels.
    others = [set(run.keys) for run in runs[1:]]
    common = [key for key in runs[0].keys if all(key in keys for keys in others)]
    everything = set().union(*(run.keys for run in runs))
    runs = [run.take(common) for run in runs]
    first = runs[0]
    if not common or len(set(first.labels.tolist())) < 2:
        raise UserError(
            f"{', '.join(str(run.folder) for run in runs)}: have no common test images of both kinds, normal "
            "and anomalous; evaluate them on the same images with evaluate --data FOLDER"
        )
    for run in runs[1:]:
        for index in np.flatnonzero(run.labels != first.labels)[:1]:
            raise UserError(
                f"{first.names[index]}: has the label {first.labels[index]} in {first.folder}, and "
                f"{run.labels[index]} in {run.folder}; evaluate both on the same images"
            )

    # Compare the figures and the verdicts.
    samples = [sample_aurocs(run.labels, run.scores) for run in runs]
    aurocs = [_auroc(run.labels, run.scores) for run in runs]
    differences = [
        Difference(
            aurocs[i] - aurocs[0],
            interval_of(samples[i] - samples[0]),
            *_count_right(run, first),
        )
        for i, run in enumerate(runs[1:], 1)
    ]
    return Comparison(
        runs=list(runs),
        aurocs=aurocs,
        intervals=[interval_of(each) for each in samples],
        differences=differences,
        disagreed=_find_disagreed(runs),
        left_out=len(everything) - len(common),
    )


def read_run(folder: Path) -> EvaluatedRun:
    """Reads `evaluation.json` and `scores.csv` of a run.

    Raises:
        UserError: a file is missing or damaged.
    """
    # Read both files.
    remedy = f"run evaluate --workdir {folder} first"
    figures_file, scores_file = folder / "evaluation.json", folder / "scores.csv"
    texts = []
    for file in (figures_file, scores_file):
        try:
            if size_of(file) > MAX_FILE_BYTES:
                raise UserError(f"{file}: has more than {MAX_FILE_BYTES} bytes; {remedy}")
            texts.append(read_bytes(file).decode("utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: this run is not evaluated ({file.name} is missing); {remedy}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); {remedy}") from error

    # Parse both files, which may come from another program.
    try:
        figures = json.loads(texts[0])
        rows = list(csv.DictReader(io.StringIO(texts[1]), strict=True))
        seen: Counter[str] = Counter()
        keys = []
        for row in rows:
            seen[row["name"]] += 1
            keys.append((row["name"], seen[row["name"]]))
        run = EvaluatedRun(
            folder=folder,
            keys=keys,
            names=[str(row["name"]) for row in rows],
            kinds=[str(row["defect_type"]) for row in rows],
            labels=np.array([int(row["label"]) for row in rows], int),
            scores=np.array([float(row["A"]) for row in rows]),
            p_values=np.array([float(row["p_value"]) for row in rows]),
            is_flagged=np.array([row["verdict"] == "anomalous" for row in rows]),
            figures={**figures, "threshold": float(figures["threshold"]), "step": int(figures["step"])},
        )
        if not np.isfinite(run.scores).all() or not set(run.labels.tolist()) <= {0, 1}:
            raise ValueError("a score is not finite, or a label is not 0 or 1")
    except (csv.Error, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: the files of its evaluation are damaged ({error}); {remedy}") from error
    return run


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(roc_auc_score(labels, scores))


def _count_right(run: EvaluatedRun, first: EvaluatedRun) -> tuple[int, int, float]:
    """Counts the images that only one of two runs judges right, and tests the counts (McNemar)."""
    only_this = int((run.is_right & ~first.is_right).sum())
    only_first = int((first.is_right & ~run.is_right).sum())
    count = only_this + only_first
    return only_this, only_first, float(binomtest(only_this, count).pvalue) if count else 1.0


def _find_disagreed(runs: Sequence[EvaluatedRun]) -> np.ndarray:
    """Finds the images with different verdicts. Images whose ranks differ most come first."""
    flags = np.stack([run.is_flagged for run in runs])
    ranks = np.stack([np.argsort(np.argsort(run.scores)) for run in runs])
    spread = ranks.max(axis=0) - ranks.min(axis=0)
    disagreed = np.flatnonzero(flags.any(axis=0) & ~flags.all(axis=0))
    return disagreed[np.argsort(-spread[disagreed], kind="stable")]
