"""The detector: loads a trained run and scores images."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image as pillow

from daad_jax.config import Config
from daad_jax.data.images import prepare
from daad_jax.data.inputs import open_image, several
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Distances
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint

# What `Detector` takes as one image: a path, the bytes of an image file, pixels, or a Pillow image.
Image = str | os.PathLike[str] | bytes | np.ndarray | jax.Array | pillow.Image
Entry = tuple[Path, UserError | None]


@dataclass(frozen=True)
class Detections:
    """The results of N images, in the order of the images.

    Attributes:
        scores: the anomaly score A(x), `[N]`; 1 is the average normal image, 0 a perfect reconstruction.
        anomalous: the verdict, `score > threshold`, bool `[N]`.
        p_values: how often a normal image scores as high or higher, in (0, 1], `[N]`.
        reconstruction: the reconstruction distance R, `[N]`.
        alignment: the alignment distance L, `[N]`; 0 without a discriminator.
        heat: the heat map, `[N, H, W]`; normal images stay mostly below 1.
        images: the images as the model got them, uint8 `[N, H, W, C]`.
        reconstructions: the images as the model reconstructed them, uint8 `[N, H, W, C]`.
    """

    scores: np.ndarray
    anomalous: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    heat: np.ndarray
    images: np.ndarray
    reconstructions: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """Scores images with a trained run.

        detector = Detector.load("runs/solar_cells-mono")
        detections = detector.score(["a.png", "b.jpg"])
        detections.scores, detections.anomalous, detections.heat

    A score depends on the image alone, not on the other images of the call; the place in a batch can change
    the last digit. `threshold` may be set to any score, or to `calibration.threshold_at(false_alarm_rate)`.

    Args:
        state: the training state, as `checkpoint.load` returns it.
        config: the configuration of the run.
        calibration: the calibration of the run.
        batch_size: how many images a device scores at once; None: `config.score.batch_size`. 1 is fastest
            for a single image. Another value may change the last digits of a score.
    """

    def __init__(
        self, state: TrainState, config: Config, calibration: Calibration, batch_size: int | None = None
    ) -> None:
        self.config, self.calibration = config, calibration
        self.step = int(state.step)
        self._threshold = calibration.threshold
        self._scorer = Scorer(config, batch_size)
        self._variables = self._scorer.place(variables_of(state))

    @classmethod
    def load(cls, workdir: str | Path, batch_size: int | None = None) -> "Detector":
        """Loads the newest readable checkpoint of a run.

        Args:
            workdir: the folder of the run.
            batch_size: see `Detector`.

        Raises:
            UserError: no such workdir, or no readable checkpoint in it.
        """
        return cls(*checkpoint.load(Path(workdir)), batch_size)

    @property
    def threshold(self) -> float:
        """An image with a higher score is anomalous. It may be set to any number.

        Raises:
            UserError: it is set to NaN, which no score would exceed.
        """
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if math.isnan(value):
            raise UserError("the threshold is NaN; give a number")
        self._threshold = value

    @property
    def batch_size(self) -> int:
        """How many images are scored at once, over all devices."""
        return self._scorer.batch_size

    def prepare(self, image: Image, name: str = "image") -> np.ndarray:
        """Brings an image to the size and the channels of the model, as in training.

        Args:
            image: a path, the bytes of an image file, a Pillow image, or pixels in a NumPy or JAX array:
                uint8 or uint16 `[h, w]` or `[h, w, 1, 3 or 4]`.
            name: the image's name in errors; a path names itself.

        Returns:
            uint8 `[H, W, C]`.

        Raises:
            UserError: the image cannot be read, is of another type, or has another size than the model while
                `config.data.fit` is "exact".
        """
        picture, _ = open_image(image, name)
        if isinstance(image, (str, os.PathLike)):
            name = str(image)
        return prepare(picture, self.config.data, name)

    def score(self, images: Image | Iterable[Image]) -> Detections:
        """Scores images. All results are in memory; for very many files there is `stream`.

        Args:
            images: one image, or several: a list, another iterable, or an array `[N, h, w, C]`. An image is
                anything that `prepare` takes.

        Raises:
            UserError: there is no image, or an image cannot be used; the message names the image.
        """
        prepared = (self.prepare(image, f"image {i}") for i, image in enumerate(several(images)))
        parts = list(self.judge(_batches(prepared, self._scorer.batch_size)))
        if not parts:
            raise UserError("no images were given to score")
        names = Detections.__dataclass_fields__
        return Detections(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    def score_prepared(self, images: Any) -> Iterator[Detections]:
        """Scores uint8 images `[N, H, W, C]` of the model's size (anything that slices into arrays)."""
        return self.judge(self._scorer.split(images))

    def stream(self, paths: Iterable[Path]) -> Iterator[tuple[list[Entry], Detections | None]]:
        """Scores any number of files in constant memory (plus the names of unreadable files), decoding ahead.

        Yields:
            For each batch: the files in their order, each with its error or None, and the detections of the
            files without an error (None if every file has one).
        """
        waiting: deque[list[Entry]] = deque()

        def batches() -> Iterator[np.ndarray]:
            entries: list[Entry] = []
            images: list[np.ndarray] = []
            for path, image in self._decoded(paths):
                if isinstance(image, UserError):
                    entries.append((path, image))
                    continue
                entries.append((path, None))
                images.append(image)
                if len(images) == self.batch_size:
                    waiting.append(entries)
                    yield np.stack(images)
                    entries, images = [], []
            if entries:
                waiting.append(entries)
            if images:
                yield np.stack(images)

        for detections in self.judge(batches()):
            yield waiting.popleft(), detections
        for entries in waiting:
            yield entries, None

    def judge(self, batches: Iterable[np.ndarray]) -> Iterator[Detections]:
        """Yields the detections of every batch of prepared images, uint8 `[b, H, W, C]`."""
        for images, distances in self._scorer.distances(self._variables, batches):
            yield self._detections(images, distances)

    def _detections(self, images: np.ndarray, distances: Distances) -> Detections:
        r, alignment = (np.asarray(v, np.float64) for v in distances[:2])
        scores = self.calibration.score(r, alignment)
        return Detections(
            scores=scores,
            anomalous=scores > self.threshold,
            p_values=self.calibration.p_value(scores),
            reconstruction=r,
            alignment=alignment,
            heat=self.calibration.heat(distances.reconstruction_map, distances.alignment_map),
            images=images,
            reconstructions=np.asarray(distances.reconstructed),
        )

    def _decoded(self, paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray | UserError]]:
        def read(path: Path) -> np.ndarray | UserError:
            try:
                return self.prepare(path)
            except UserError as error:
                return UserError(str(error))  # without its traceback, which holds the image

        ahead: deque[tuple[Path, Future[np.ndarray | UserError]]] = deque()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for path in paths:
                ahead.append((path, pool.submit(read, path)))
                if len(ahead) > 2 * self._scorer.batch_size:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for path, future in ahead:
                yield path, future.result()


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
