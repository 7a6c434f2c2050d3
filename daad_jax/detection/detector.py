"""The detector: loads a trained run and scores images."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image as pillow

from daad_jax.buckets import open_place
from daad_jax.config import Config
from daad_jax.data.decoding import Picture, picture_size
from daad_jax.data.image_files import ImageFile
from daad_jax.data.images import prepare, prepare_tiles
from daad_jax.data.inputs import open_image, several
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.data.samples import Split
from daad_jax.data.tiles import TileGrid
from daad_jax.detection.batching import batch_images
from daad_jax.detection.decoding_ahead import Entry, decode_ahead
from daad_jax.detection.detections import Detections, join_detections
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Distances
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.scoring.tile_results import TiledImage, join_tiles
from daad_jax.training import calibrations
from daad_jax.training.calibration_files import CalibrationLabel

# One image for `Detector`: a path, the bytes of an image file, pixels, or a Pillow image.
Image = str | os.PathLike[str] | bytes | np.ndarray | jax.Array | pillow.Image
PICTURES_AHEAD = 2  # images decoded in advance in a run with tiles; few, because such images are large


class Detector:
    """Scores images with a trained run.

        detector = Detector.load("runs/solar_cells-mono")
        detections = detector.score(["a.png", "b.jpg"])
        detections.scores, detections.anomalous, detections.heat

    A score depends on the image alone, not on other images of the call; only its last digit can depend on
    the place in a batch. You may set `threshold`, e.g. to `calibration.threshold_at(false_alarm_rate)`.

    Args:
        state: the training state, as `checkpoint.load` returns it.
        config: the configuration of the run.
        calibration: the calibration of the run.
        batch_size: how many images a device scores at once; None: `config.score.batch_size`. 1 is fastest
            for a single image. Another value may change the last digits of a score.
        label: names the calibration; None: it is the calibration of the training.
    """

    def __init__(
        self,
        state: TrainState,
        config: Config,
        calibration: Calibration,
        batch_size: int | None = None,
        label: CalibrationLabel | None = None,
    ) -> None:
        self.config, self.calibration = config, calibration
        self.step = int(state.step)
        self.calibration_label = label or CalibrationLabel.of_training(calibration, self.step)
        self._threshold = calibration.threshold
        self._scorer = Scorer(config, batch_size)
        self._variables = self._scorer.place(variables_of(state))

    @classmethod
    def load(cls, workdir: str | Path, batch_size: int | None = None) -> "Detector":
        """Loads the newest readable checkpoint of a run, with the calibration that is in use.

        Args:
            workdir: the folder of the run.
            batch_size: see `Detector`.

        Raises:
            UserError: the workdir is missing, has no readable checkpoint, or its calibration is damaged.
        """
        run = calibrations.load(open_place(workdir))
        return cls(run.state, run.config, run.calibration, batch_size, run.label)

    @property
    def threshold(self) -> float:
        """An image with a higher score is anomalous. You may set any number but NaN.

        Raises:
            UserError: the new threshold is NaN, which no score would exceed.
        """
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if math.isnan(value):
            raise UserError("the threshold is NaN; give a number")
        self._threshold = value

    @property
    def batch_size(self) -> int:
        """The number of images that all devices together score at once."""
        return self._scorer.batch_size

    def prepare(self, image: Image, name: str = "image") -> np.ndarray:
        """Brings an image to the size and the channels of the model, as in training.

        Args:
            image: a path, the bytes of an image file, a Pillow image, or pixels in a NumPy or JAX array:
                integers or floats `[h, w]` or `[h, w, 1, 3 or 4]`. The range of the run says which values are
                black and white. Integers of another type use their full range, floats use 0 to 1.
            name: the image's name in errors. For a path, the path itself is the name.

        Returns:
            uint8 `[H, W, C]`, or uint16 in a run of 16 bits. With `config.data.tiles`, the k tiles of the
            image, `[k, H, W, C]`.

        Raises:
            UserError: the image cannot be read or has another type. Or `config.data.fit` is "exact", and the
                image has another size than the model.
        """
        data = self.config.data
        picture, name = self._open(image, name)
        return (
            np.stack(list(prepare_tiles(picture, data, name))) if data.tiles else prepare(picture, data, name)
        )

    def _open(self, image: Image, name: str) -> tuple[Picture, str]:
        """Returns the picture of an image, and its name for errors."""
        picture, _ = open_image(image, name, self.config.data.max_pixels)
        return picture, str(image) if isinstance(image, (str, os.PathLike)) else name

    def score(self, images: Image | Iterable[Image]) -> Detections:
        """Scores images, and keeps all results in memory. Use `stream` for very many files.

        Args:
            images: one image, or several: a list, another iterable, or an array `[N, h, w, C]`. `prepare`
                says what an image may be.

        Raises:
            UserError: there is no image, an image cannot be used, or its score is not finite; the message
                names the image.
        """
        clipped: list[bool] = []
        names: list[str] = []
        data = self.config.data

        def pictures() -> Iterator[tuple[Picture, str]]:
            for i, image in enumerate(several(images)):
                picture, name = self._open(image, f"image {i}")
                names.append(name)
                clipped.append(exceeds_range(picture, data))
                yield picture, name

        if data.tiles:
            parts = list(self._judge_pictures(pictures()))
        else:
            prepared = (prepare(picture, data, name) for picture, name in pictures())
            parts = list(self.judge(batch_images(prepared, self.batch_size), names.__getitem__))
        if not parts:
            raise UserError("no images were given to score")
        return replace(join_detections(parts), clipped=np.array(clipped))

    def score_prepared(self, images: Any, names: Sequence[str] | None = None) -> Iterator[Detections]:
        """Scores images as `prepare` returns them. Each row counts as an image, also in a run with tiles.

        Args:
            images: `[N, H, W, C]`, or any object whose slices are such arrays.
            names: the names of the images, for errors; None: their numbers.

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        return self.judge(self._scorer.split(images), names.__getitem__ if names else "image {}".format)

    def score_split(self, split: Split) -> Iterator[Detections]:
        """Scores the images of a split in batches; in a run with tiles, one image at a time."""
        if split.grids is None:
            return self.score_prepared(split.images, split.names)
        return self._judge_tiles(self._scorer.split(split.images), split.grids, split.names.__getitem__)

    def stream(self, files: Iterable[ImageFile]) -> Iterator[tuple[list[Entry], Detections | None]]:
        """Scores any number of images, and decodes the next ones meanwhile. Memory does not grow.

        With tiles, the memory also holds the pictures and the heat maps of a few images.

        Yields:
            For each batch: the images in order, and the detections of the readable images (None if no image
            is readable).

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        waiting: deque[tuple[list[Entry], list[bool]]] = deque()
        found = self._stream_tiled(files, waiting) if self.config.data.tiles else self._stream(files, waiting)
        for detections in found:
            entries, clipped = waiting.popleft()
            yield entries, replace(detections, clipped=np.array(clipped))
        for entries, _ in waiting:
            yield entries, None

    def _stream(
        self, files: Iterable[ImageFile], waiting: deque[tuple[list[Entry], list[bool]]]
    ) -> Iterator[Detections]:
        """Scores images batch by batch. The entries of a batch are in `waiting` before it is scored."""
        data = self.config.data

        def batches() -> Iterator[np.ndarray]:
            entries: list[Entry] = []
            images: list[np.ndarray] = []
            clipped: list[bool] = []
            for entry, image in decode_ahead(
                files, data, lambda picture, name: prepare(picture, data, name), 2 * self.batch_size
            ):
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
            scored += len(detections)
            yield detections

    def _stream_tiled(
        self, files: Iterable[ImageFile], waiting: deque[tuple[list[Entry], list[bool]]]
    ) -> Iterator[Detections]:
        """Scores images one by one. The entry of an image is in `waiting` before the image is scored."""

        def pictures() -> Iterator[tuple[Picture, str]]:
            entries: list[Entry] = []
            for entry, image in decode_ahead(
                files, self.config.data, lambda picture, _: picture, PICTURES_AHEAD
            ):
                entries.append(entry)
                if image is not None:
                    waiting.append((entries, [image[1]]))
                    yield image[0], entry.file.name
                    entries = []
            if entries:
                waiting.append((entries, []))

        return self._judge_pictures(pictures())

    def _judge_pictures(self, pictures: Iterable[tuple[Picture, str]]) -> Iterator[Detections]:
        """Cuts (picture, name) pairs into tiles, and yields the detections of each picture."""
        data, grids, names = self.config.data, deque[TileGrid](), deque[str]()

        def tiles() -> Iterator[np.ndarray]:
            for picture, name in pictures:
                grids.append(TileGrid.of(picture_size(picture), data))
                names.append(name)
                yield from prepare_tiles(picture, data, name)

        # The grid of an image is there before its first tile is scored.
        batches = batch_images(tiles(), self.batch_size)
        return self._judge_tiles(batches, iter(grids.popleft, None), lambda _: names.popleft())

    def _judge_tiles(
        self, batches: Iterable[np.ndarray], grids: Iterable[TileGrid], name_of: Callable[[int], str]
    ) -> Iterator[Detections]:
        """Yields the detections of each image, from batches of prepared tiles `[b, H, W, C]`."""
        images = join_tiles(self._scorer.distances(self._variables, batches), grids)
        for number, image in enumerate(images):
            detections, name = self._detections_of_tiles(image), name_of(number)
            self._require_finite(detections, [name].__getitem__)
            yield detections

    def judge(
        self, batches: Iterable[np.ndarray], name_of: Callable[[int], str] = "image {}".format
    ) -> Iterator[Detections]:
        """Yields the detections of every batch of prepared images `[b, H, W, C]`.

        Args:
            batches: batches of prepared images.
            name_of: returns the name of image n, for errors; n counts over all batches from 0.

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        count = 0
        for images, distances in self._scorer.distances(self._variables, batches):
            detections = self._detections(images, distances)
            self._require_finite(detections, name_of, count)
            count += len(images)
            yield detections

    def _require_finite(self, detections: Detections, name_of: Callable[[int], str], first: int = 0) -> None:
        """Raises UserError if a number is not finite. `name_of(first)` is the name of the first image."""
        for index, heat in enumerate(detections.heat):
            numbers = (detections.scores, detections.reconstruction, detections.alignment)
            if np.isfinite(heat).all() and all(np.isfinite(values[index]) for values in numbers):
                continue
            raise UserError(
                f"{name_of(first + index)}: its score ({detections.scores[index]:g}) or its heat map is not "
                f"finite, so there is no verdict; the model of step {self.step} is of no use: train in a new "
                "--workdir, with a smaller config.train.learning_rate if it has networks"
            )

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
            calibration=self.calibration_label.id,
        )

    def _detections_of_tiles(self, image: TiledImage) -> Detections:
        """Returns the detections of one image: its least normal tile has the score; the heat map is whole."""
        of_tiles = self.calibration.score(image.reconstruction, image.alignment)
        worst = int(np.argmax(of_tiles))
        scores = of_tiles[[worst]]
        return Detections(
            scores=scores,
            anomalous=scores > self.threshold,
            p_values=self.calibration.p_value(scores),
            reconstruction=image.reconstruction[[worst]],
            alignment=image.alignment[[worst]],
            heat=[self.calibration.heat(image.reconstruction_map, image.alignment_map)],
            images=[image.image],
            reconstructions=None if image.reconstructed is None else [image.reconstructed],
            clipped=np.zeros(1, bool),
            calibration=self.calibration_label.id,
        )
