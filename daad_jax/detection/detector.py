"""The detector: loads a trained run and scores images."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image as pillow

from daad_jax.config import Config
from daad_jax.data.image_files import ImageFile, digest_of_file
from daad_jax.data.images import prepare
from daad_jax.data.inputs import open_image, several
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Distances
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint

# What `Detector` takes as one image: a path, the bytes of an image file, pixels, or a Pillow image.
Image = str | os.PathLike[str] | bytes | np.ndarray | jax.Array | pillow.Image
Prepared = tuple[np.ndarray, bool]  # the pixels for the model, and whether values were clipped


class Entry(NamedTuple):
    """An image that was scored (or not: its error says why), and the SHA-256 of its file."""

    file: ImageFile
    error: UserError | None
    sha256: str


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
        images: the images as the model got them, `[N, H, W, C]`, uint8, or uint16 if the run has 16 bits.
        reconstructions: the images as the model reconstructed them, of the same shape and type; None if the
            model reads features, which are no picture.
        clipped: which images had values outside the range of the run, which were clipped, bool `[N]`.
    """

    scores: np.ndarray
    anomalous: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    heat: np.ndarray
    images: np.ndarray
    reconstructions: np.ndarray | None
    clipped: np.ndarray

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
                integers or floats `[h, w]` or `[h, w, 1, 3 or 4]`. The range of the run says which values are
                black and white; types that it does not name go by their full range, floats by 0 to 1.
            name: the image's name in errors; a path names itself.

        Returns:
            uint8 or, in a run of 16 bits, uint16 `[H, W, C]`.

        Raises:
            UserError: the image cannot be read, is of another type, or has another size than the model while
                `config.data.fit` is "exact".
        """
        return self._prepare(image, name)[0]

    def _prepare(self, image: Image, name: str = "image") -> Prepared:
        """The result of `prepare`, and whether values outside the range of the run were clipped."""
        data = self.config.data
        picture, _ = open_image(image, name, data.max_pixels)
        if isinstance(image, (str, os.PathLike)):
            name = str(image)
        return prepare(picture, data, name), exceeds_range(picture, data)

    def score(self, images: Image | Iterable[Image]) -> Detections:
        """Scores images. All results are in memory; for very many files there is `stream`.

        Args:
            images: one image, or several: a list, another iterable, or an array `[N, h, w, C]`. An image is
                anything that `prepare` takes.

        Raises:
            UserError: there is no image, an image cannot be used, or its score is not finite; the message
                names the image.
        """
        clipped: list[bool] = []
        names: list[str] = []

        def prepared() -> Iterator[np.ndarray]:
            for i, image in enumerate(several(images)):
                names.append(str(image) if isinstance(image, (str, os.PathLike)) else f"image {i}")
                pixels, is_clipped = self._prepare(image, names[i])
                clipped.append(is_clipped)
                yield pixels

        parts = list(self.judge(_batches(prepared(), self._scorer.batch_size), names.__getitem__))
        if not parts:
            raise UserError("no images were given to score")
        return replace(join_detections(parts), clipped=np.array(clipped))

    def score_prepared(self, images: Any, names: Sequence[str] | None = None) -> Iterator[Detections]:
        """Scores images as `prepare` returns them.

        Args:
            images: `[N, H, W, C]`, anything that slices into arrays.
            names: of the images, for errors; None: their numbers.

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        return self.judge(self._scorer.split(images), names.__getitem__ if names else "image {}".format)

    def stream(self, files: Iterable[ImageFile]) -> Iterator[tuple[list[Entry], Detections | None]]:
        """Scores any number of images in constant memory (plus the names of unreadable ones), decoding ahead.

        Yields:
            For each batch: the images in their order, and the detections of those without an error (None if
            every image has one).

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        waiting: deque[tuple[list[Entry], list[bool]]] = deque()

        def batches() -> Iterator[np.ndarray]:
            entries: list[Entry] = []
            images: list[np.ndarray] = []
            clipped: list[bool] = []
            for entry, image in self._decoded(files):
                entries.append(entry)
                if image is None:
                    continue
                images.append(image[0])
                clipped.append(image[1])
                if len(images) == self.batch_size:
                    waiting.append((entries, clipped))
                    yield np.stack(images)
                    entries, images, clipped = [], [], []
            if entries:
                waiting.append((entries, clipped))
            if images:
                yield np.stack(images)

        scored = 0

        def name_of(number: int) -> str:
            entries, _ = waiting[0]
            return [entry.file.name for entry in entries if not entry.error][number - scored]

        for detections in self.judge(batches(), name_of):
            entries, clipped = waiting.popleft()
            scored += len(detections)
            yield entries, replace(detections, clipped=np.array(clipped))
        for entries, _ in waiting:
            yield entries, None

    def judge(
        self, batches: Iterable[np.ndarray], name_of: Callable[[int], str] = "image {}".format
    ) -> Iterator[Detections]:
        """Yields the detections of every batch of prepared images `[b, H, W, C]`.

        Args:
            batches: of images.
            name_of: the name of the n-th of all images, for errors.

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        count = 0
        for images, distances in self._scorer.distances(self._variables, batches):
            detections = self._detections(images, distances)
            if (index := _find_non_finite(detections)) is not None:
                raise UserError(
                    f"{name_of(count + index)}: its score ({detections.scores[index]:g}) or its heat map is "
                    f"not finite, so there is no verdict; the model of step {self.step} is of no use: train "
                    "in a new --workdir, with a smaller config.train.learning_rate if it has networks"
                )
            count += len(images)
            yield detections

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
            reconstructions=distances.reconstructed,  # type: ignore[arg-type]
            clipped=np.zeros(len(images), bool),
        )

    def _decoded(self, files: Iterable[ImageFile]) -> Iterator[tuple[Entry, Prepared | None]]:
        data = self.config.data

        def read(file: ImageFile) -> tuple[Entry, Prepared | None]:
            try:
                picture, digest = file.load(data.max_pixels)
                prepared = prepare(picture, data, file.name), exceeds_range(picture, data)
                return Entry(file, None, digest), prepared
            except UserError as error:
                digest = ""
                with suppress(UserError):  # a file that cannot be opened has no digest
                    digest = digest_of_file(file.path)
                # Without its traceback, which holds the image.
                return Entry(file, UserError(str(error)), digest), None

        ahead: deque[Future[tuple[Entry, Prepared | None]]] = deque()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for file in files:
                ahead.append(pool.submit(read, file))
                if len(ahead) > 2 * self._scorer.batch_size:
                    yield ahead.popleft().result()
            for future in ahead:
                yield future.result()


def _find_non_finite(detections: Detections) -> int | None:
    """The index of the first image with a score or a place of the heat map that is not finite, or None."""
    numbers = (detections.scores, detections.reconstruction, detections.alignment, detections.heat)
    is_finite = [np.isfinite(values).reshape(len(detections), -1).all(axis=1) for values in numbers]
    bad = np.flatnonzero(~np.logical_and.reduce(is_finite))
    return int(bad[0]) if len(bad) else None


def join_detections(parts: Iterable[Detections]) -> Detections:
    """The detections of several batches as those of one, in their order; there must be at least one."""
    batches = list(parts)

    def join(name: str) -> Any:
        values = [getattr(batch, name) for batch in batches]
        return None if values[0] is None else np.concatenate(values)

    return Detections(**{name: join(name) for name in Detections.__dataclass_fields__})


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
