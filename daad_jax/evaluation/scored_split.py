"""Scores a labelled split, in one process or in several processes that share the images."""

import io
import time
from dataclasses import dataclass

import numpy as np

from daad_jax.data.samples import Split
from daad_jax.detection.detector import Detector
from daad_jax.runtime import processes


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of N images, in the order of the split.

    Attributes:
        scores: the anomaly scores A(x), float64 `[N]`.
        p_values: the p-values of the scores, float64 `[N]`.
        reconstruction: R, float64 `[N]`.
        alignment: L, float64 `[N]`.
        heat: the heat map of each image; empty if heat maps were not kept.
        seconds: the time that the scoring took.
    """

    scores: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    heat: list[np.ndarray]
    seconds: float


def score_split(detector: Detector, test: Split, stride: int, with_heat: bool) -> ScoredSplit:
    """Scores all images. Each of several processes scores its own batches, and gets the scores of all images.

    Args:
        detector: the detector, equal in all processes.
        test: the split, equal in all processes.
        stride: n to keep every n-th row and column of the heat maps.
        with_heat: whether to keep heat maps.

    Raises:
        UserError: a score is not finite, in any of the processes.
    """
    share = processes.own_share(detector.batch_size)
    rows = np.array([row for row, _ in share.take(test.names)], int)
    own = test if len(rows) == len(test) else test.take(rows)
    # Score the first batch before the time begins, because this compiles the program.
    with processes.errors_end_all():
        next(detector.score_prepared(test.images[: detector.batch_size], test.names))
    # Score all images of this process.
    start, numbers, heat = time.perf_counter(), [np.zeros((4, 0))], list[np.ndarray]()
    with processes.errors_end_all():
        for found in detector.score_split(own) if len(own) else []:
            numbers.append(np.stack([found.scores, found.p_values, found.reconstruction, found.alignment]))
            if with_heat:
                heat.extend(values[::stride, ::stride] for values in found.heat)
    # Join the scores of all processes.
    joined = np.concatenate(numbers, axis=1)
    if share.count > 1:
        joined, heat = _gather(rows, joined, heat)
    scores, p_values, reconstruction, alignment = joined
    return ScoredSplit(scores, p_values, reconstruction, alignment, heat, time.perf_counter() - start)


def _gather(
    rows: np.ndarray, numbers: np.ndarray, heat: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Joins the numbers `[4, N]` and the heat maps of all processes, in the order of the images.

    Args:
        rows: the indices of this process's images, `[n]`.
        numbers: four numbers for each of these images, `[4, n]`.
        heat: the heat maps of these images; empty if heat maps were not kept.

    Returns:
        The numbers and the heat maps of all N images.
    """
    content = io.BytesIO()
    sizes = np.array([values.shape for values in heat], int).reshape(-1, 2)
    pixels = np.concatenate([np.ravel(values) for values in heat]) if heat else np.zeros(0)
    np.savez(content, rows=rows, numbers=numbers, sizes=sizes, pixels=pixels)
    parts = [np.load(io.BytesIO(part), allow_pickle=False) for part in processes.gather(content.getvalue())]
    order = np.argsort(np.concatenate([part["rows"] for part in parts]))
    maps: list[np.ndarray] = []
    for part in parts:
        found, ends = part["pixels"], np.cumsum(np.prod(part["sizes"], axis=1))
        maps += [found[e - h * w : e].reshape(h, w) for e, (h, w) in zip(ends, part["sizes"])]
    joined = np.concatenate([part["numbers"] for part in parts], axis=1)[:, order]
    return joined, [maps[i] for i in order] if maps else []
