"""Gathers images of concurrent requests into the batches of one compiled program."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from daad_jax.config import Config
from daad_jax.data.images import prepare
from daad_jax.data.inputs import open_image
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.detection.detections import Detections
from daad_jax.scoring.anomaly_score import Calibration


class Judge(Protocol):
    """Scores images: a `Detector` or an `ExportedDetector`. `Detector` explains every name."""

    config: Config
    calibration: Calibration
    step: int

    @property
    def calibration_label(self) -> Any: ...

    @property
    def threshold(self) -> float: ...

    @property
    def batch_size(self) -> int: ...

    def score(self, images: Any) -> Detections: ...

    def score_prepared(self, images: Any) -> Iterator[Detections]: ...

    def judge(
        self, batches: Iterable[np.ndarray], name_of: Callable[[int], str] = ...
    ) -> Iterator[Detections]: ...


class QueueFullError(Exception):
    """More images wait than the queue holds."""


class Opened(NamedTuple):
    """An image that waits to be scored.

    Attributes:
        name: the name of the image, for messages.
        prepared: the result of `images.prepare`, `[H, W, C]`. In a run with tiles, the bytes of the file: a
            large decoded image would take much memory while it waits.
        clipped: see `Detections`.
        needs_heat: whether the answer shows the heat map.
    """

    name: str
    prepared: np.ndarray | bytes
    clipped: bool
    needs_heat: bool = False


class ScoringQueue:
    """Scores images in one thread, in batches of up to `detector.batch_size` images.

    A batch has all images that wait. A single image does not wait for others. While a batch is scored, the
    images of other requests gather. All batches run one compiled program, the program of `Detector.score`.

    Args:
        detector: scores the images.
        max_waiting: how many images may wait.
    """

    def __init__(self, detector: Judge, max_waiting: int) -> None:
        self._detector, self._max_waiting = detector, max_waiting
        self._lock, self._count = threading.Lock(), 0
        self._queue: queue.SimpleQueue[tuple[Opened, Future[Detections]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._score_all, name="scoring")
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of images that wait or are scored now."""
        return self._count

    def open(self, content: bytes, name: str, needs_heat: bool = False) -> Opened:
        """Decodes an image, as `Detector.prepare` does.

        Args:
            content: the bytes of the file.
            name: the name of the image, for messages.
            needs_heat: see `Opened`.

        Raises:
            UserError: the image cannot be used; the message names it.
        """
        data = self._detector.config.data
        picture, _ = open_image(content, name, data.max_pixels)
        prepared = content if data.tiles else prepare(picture, data, name)
        return Opened(name, prepared, exceeds_range(picture, data), needs_heat)

    def submit(self, images: Sequence[Opened]) -> list[Future[Detections]]:
        """Adds images to the queue.

        Returns:
            A future for each image. The future returns `Detections` with N = 1, or raises UserError. The
            detections have no reconstruction, and without `Opened.needs_heat` neither heat map nor image. The
            image of a cancelled future is not scored, unless its turn has come already.

        Raises:
            QueueFullError: too many images wait. None of `images` is scored.
        """
        with self._lock:
            if self._count + len(images) > self._max_waiting:
                raise QueueFullError
            self._count += len(images)
        futures: list[Future[Detections]] = [Future() for _ in images]
        for pair in zip(images, futures):
            self._queue.put(pair)
        return futures

    def close(self) -> None:
        """Scores the images that wait, and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _score_all(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            while len(batch) < self._detector.batch_size and batch[-1] is not None:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            is_open = batch[-1] is not None
            given = [pair for pair in batch if pair is not None]
            self._score_batch([pair for pair in given if pair[1].set_running_or_notify_cancel()])
            with self._lock:
                self._count -= len(given)

    def _score_batch(self, batch: list[tuple[Opened, Future[Detections]]]) -> None:
        if not batch:
            return
        try:
            found = self._score([image for image, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for pair in batch:  # one image must not take the others' verdicts
                self._score_batch([pair])
            return
        for (_, future), detections in zip(batch, found):
            future.set_result(detections)

    def _score(self, images: list[Opened]) -> list[Detections]:
        """Returns the detections of each image, N = 1."""
        if self._detector.config.data.tiles:
            return [_reduce(self._detector.score([image.prepared]), image) for image in images]
        pixels = np.stack([image.prepared for image in images])  # type: ignore[misc]
        # A batch by itself: the results must not wait for a next batch.
        (found,) = self._detector.judge([pixels], [image.name for image in images].__getitem__)
        return [_reduce(found.take(index), image) for index, image in enumerate(images)]


def _reduce(found: Detections, image: Opened) -> Detections:
    """Returns the detections of an image without the arrays that no answer needs.

    These arrays are as large as the image in a run with tiles, and would wait for the other images of a
    request.
    """
    if image.needs_heat:
        return replace(found, reconstructions=None)
    nothing = np.zeros((0, 0, 0))
    return replace(found, heat=nothing, images=nothing, reconstructions=None)
