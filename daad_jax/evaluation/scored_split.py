"""Scores a labelled split in one process, or in several processes that share the images."""

import io
import time
from dataclasses import dataclass

import numpy as np

from daad_jax.data.samples import Split
from daad_jax.detection.detector import Detector
from daad_jax.runtime import processes


@dataclass(frozen=True)
class ScoredSplit:
    """The numbers of N images, in the order of the split.

    `scores` A(x), `p_values`, `reconstruction` R and `alignment` L are float64 `[N]`. `heat` has the heat map
    of each image, or none. `seconds` is how long the scoring took.
    """

    scores: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    heat: list[np.ndarray]
    seconds: float


def score_split(detector: Detector, test: Split, stride: int, with_heat: bool) -> ScoredSplit:
    """Scores all images. Of several processes, each scores its batches, and each gets all numbers.

    Args:
        detector: the detector, equal in all processes.
        test: the split, equal in all processes.
        stride: every `stride`-th row and column of the heat maps is kept.
        with_heat: whether heat maps are kept.

    Raises:
        UserError: a score is not finite, in any of the processes.
    """
    share = processes.own_share(detector.batch_size)
    rows = np.array([row for row, _ in share.take(test.names)], int)
    own = test if len(rows) == len(test) else test.take(rows)
    # The first batch is scored twice, since its first time includes compiling.
    with processes.errors_end_all():
        next(detector.score_prepared(test.images[: detector.batch_size], test.names))
    start, numbers, heat = time.perf_counter(), [np.zeros((4, 0))], list[np.ndarray]()
    with processes.errors_end_all():
        for found in detector.score_split(own) if len(own) else []:
            numbers.append(np.stack([found.scores, found.p_values, found.reconstruction, found.alignment]))
            if with_heat:
                heat.extend(values[::stride, ::stride] for values in found.heat)
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
        rows: the images of this process, `[n]`.
        numbers: four numbers of each of these images, `[4, n]`.
        heat: the heat maps of these images, or none.
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
