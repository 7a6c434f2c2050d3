"""The public way to a verdict: load a run, give it images."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import Config
from daad_jax.data.images import convert_array, decode, fit
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Measured
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint

Image = str | Path | np.ndarray
Entry = tuple[Path, UserError | None]


@dataclass(frozen=True)
class Detections:
    """What is said of N images: arrays of one row an image, in the order they came.

    `scores` A(x) (1: the average normal image), `anomalous` (score >
    threshold), `p_values` (how often a normal image scores as high), `reconstruction` R and
    `alignment` L, `heat` `[N, H, W]` (below 1: as normal images are), and the uint8 `[N, H, W, C]`
    `images` and `reconstructions`, as the model saw and rebuilt them.
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
    """A trained run that scores images.

        detector = Detector.load("runs/solar_cells-mono")
        found = detector.score(["a.png", "b.jpg"])
        found.scores, found.anomalous, found.heat

    A score depends on the image alone, not on what it comes with; its place in a batch can change the
    last digit. `threshold` may be set to any score, or to `calibration.threshold_at(false_alarm_rate)`.

    Args:
        state, config, calibration: as `checkpoint.load` gives them.
        batch_size: images a device scores at once, instead of `config.score.batch_size`. 1 answers a
            single image fastest, more score many fastest; another value may change a score's last digits.
    """

    def __init__(
        self, state: TrainState, config: Config, calibration: Calibration, batch_size: int | None = None
    ) -> None:
        self.config, self.calibration = config, calibration
        self.step = int(state.step)
        self.threshold = calibration.threshold
        self._scorer = Scorer(config, batch_size)
        self._variables = self._scorer.place(variables_of(state))

    @classmethod
    def load(cls, workdir: str | Path, batch_size: int | None = None) -> "Detector":
        """The newest readable checkpoint of a run; `batch_size` as above.

        Raises:
            UserError: no such workdir, or no readable checkpoint in it.
        """
        return cls(*checkpoint.load(Path(workdir)), batch_size)

    @property
    def batch_size(self) -> int:
        """How many images are scored at once, over all devices."""
        return self._scorer.batch_size

    def prepare(self, image: Image, name: str = "image") -> np.ndarray:
        """An image as the model sees it, by the same way as in training.

        Args:
            image: a file, or pixels: uint8 or uint16 `[h, w]` or `[h, w, 1, 3 or 4]`.
            name: of pixels, for the error.

        Returns:
            uint8 `[H, W, C]`.

        Raises:
            UserError: it cannot be read, or has another size where `config.data.fit` is "exact".
        """
        data = self.config.data
        if isinstance(image, np.ndarray):
            pixels = convert_array(image, data.channels, name)
        else:
            name, pixels = str(image), decode(Path(image), data.channels)
        return fit(pixels, data.height, data.width, data.fit, name)

    def score(self, images: Image | Iterable[Image]) -> Detections:
        """Scores images, with all results in memory; for many files there is `stream`.

        Args:
            images: one of what `prepare` takes, several of them, or a batch `[N, h, w, C]`.

        Raises:
            UserError: none were given, or one cannot be used; it is named.
        """
        is_one = isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 4)
        several: Any = [images] if is_one else images
        prepared = (self.prepare(image, f"image {i}") for i, image in enumerate(several))
        parts = list(self.judge(_chunks(prepared, self._scorer.batch_size)))
        if not parts:
            raise UserError("no images were given to score")
        names = Detections.__dataclass_fields__
        return Detections(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    def score_prepared(self, images: Any) -> Iterator[Detections]:
        """Scores uint8 images `[N, H, W, C]` of the model's size (anything that slices into arrays)."""
        return self.judge(self._scorer.cut(images))

    def stream(self, paths: Iterable[Path]) -> Iterator[tuple[list[Entry], Detections | None]]:
        """Scores any number of files in constant memory (but for names of the unreadable), decoding ahead.

        Yields:
            Per batch: the files in their order, each with its error or None, and what is said of those
            without (None where all have one).
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

        for found in self.judge(batches()):
            yield waiting.popleft(), found
        for entries in waiting:
            yield entries, None

    def judge(self, batches: Iterable[np.ndarray]) -> Iterator[Detections]:
        """What is said of every batch of prepared images, uint8 `[b, H, W, C]`."""
        for images, measured in self._scorer.measure(self._variables, batches):
            yield self._detections(images, measured)

    def _detections(self, images: np.ndarray, measured: Measured) -> Detections:
        r, alignment = (np.asarray(v, np.float64) for v in measured[:2])
        scores = self.calibration.score(r, alignment)
        return Detections(
            scores=scores,
            anomalous=scores > self.threshold,
            p_values=self.calibration.p_value(scores),
            reconstruction=r,
            alignment=alignment,
            heat=self.calibration.heat(measured.reconstruction_map, measured.alignment_map),
            images=images,
            reconstructions=np.asarray(measured.rebuilt),
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


def _chunks(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    chunk: list[np.ndarray] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == size:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)
