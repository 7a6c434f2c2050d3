"""The results of scoring images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = np.ndarray | list[np.ndarray]  # of N images; a list if their sizes differ


@dataclass(frozen=True)
class Detections:
    """The results of N images, in the order of the images.

    Attributes:
        scores: the anomaly score A(x), `[N]`; 1 is the average normal image, 0 a perfect reconstruction.
        anomalous: the verdict, `score > threshold`, bool `[N]`.
        p_values: how often a normal image scores as high or higher, in (0, 1], float64 `[N]`.
        reconstruction: the reconstruction distance R, `[N]`.
        alignment: the alignment distance L, `[N]`; 0 without a discriminator.
        heat: the heat map, `[N, H, W]`; normal images stay mostly below 1.
        images: the images as the model got them, `[N, H, W, C]`, uint8, or uint16 if the run has 16 bits.
        reconstructions: the images as the model reconstructed them, of the same shape and type; None if the
            model reads features, which are no picture.
        clipped: whether an image had values outside the range of the run, which were clipped, bool `[N]`.
        calibration: the id of the calibration behind scores, verdicts and p-values, see
            `Detector.calibration_label`.

    In a run with `config.data.tiles`, an image has the score, R and L of its least normal tile. `heat`,
    `images` and `reconstructions` are then lists of N arrays that cover whole images, `[h, w]` and
    `[h, w, C]`. They have the resolution of the tiles: they are smaller than the file if tiles are shrunk.
    """

    scores: np.ndarray
    anomalous: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    heat: Arrays
    images: Arrays
    reconstructions: Arrays | None
    clipped: np.ndarray
    calibration: str

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: int) -> "Detections":
        """Returns the detections of one image, N = 1."""
        rows: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            values = getattr(self, name)
            is_of_all = values is None or isinstance(values, str)
            rows[name] = values if is_of_all else values[index : index + 1]
        return Detections(**rows)


def join_detections(parts: Iterable[Detections]) -> Detections:
    """Joins the detections of at least one batch, in the order of the batches."""
    batches = list(parts)

    def join(name: str) -> Any:
        values = [getattr(batch, name) for batch in batches]
        if isinstance(values[0], str):
            return values[0]
        if isinstance(values[0], list):
            return [array for batch in values for array in batch]
        return None if values[0] is None else np.concatenate(values)

    return Detections(**{name: join(name) for name in Detections.__dataclass_fields__})
