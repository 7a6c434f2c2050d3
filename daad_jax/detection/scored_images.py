"""Scores image files, and makes a row of results for each image."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from daad_jax.data.image_files import ImageFile
from daad_jax.detection.decoding_ahead import Entry
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.detection.overlay_files import Overlays, finish
from daad_jax.detection.score_table import REMEDY, Row
from daad_jax.files import explain_write_errors
from daad_jax.terminal import warn


class ScoredImage(NamedTuple):
    """The results of one image, or the error if it cannot be read.

    Attributes:
        number: the place of the image among all images to score, from 0.
        image: the image.
        row: the results by column, see `score_table.COLUMNS`.
        sha256: the SHA-256 of the file, hexadecimal; "" if the file cannot be opened.
        is_clipped: whether the image has values outside the range of the run.
    """

    number: int
    image: ImageFile
    row: Row
    sha256: str
    is_clipped: bool


def score_images(
    detector: Detector, images: Iterable[tuple[int, ImageFile]], out: Path, overlays: str
) -> Iterator[list[ScoredImage]]:
    """Yields the results batch by batch, and draws overlays.

    Args:
        detector: its `threshold` decides.
        images: (number, image) of each image; the name of an overlay begins with the number.
        out: the folder for `overlays/`.
        overlays: which images get a picture with their heat map: "anomalous", "all" or "none".

    Raises:
        UserError: an overlay cannot be written, or a score is not finite.
    """
    numbers: list[int] = []

    def note_numbers() -> Iterator[ImageFile]:
        for number, image in images:
            numbers.append(number)
            yield image

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        draw = Overlays(detector, out, overlays, pool)
        for entries, detections in detector.stream(note_numbers()):
            rows = _make_rows(entries, detections)
            own, numbers[: len(rows)] = numbers[: len(rows)], []
            drawings = draw.start(entries, rows, detections, own)
            with explain_write_errors(out, REMEDY):
                finish(drawings)
            clipped = iter(detections.clipped.tolist() if detections else [])
            yield [
                ScoredImage(number, entry.file, row, entry.sha256, not entry.error and next(clipped))
                for number, entry, row in zip(own, entries, rows, strict=True)
            ]


def _make_rows(entries: Sequence[Entry], detections: Detections | None) -> list[Row]:
    """Returns a row for each image of a batch. The row of an unreadable image has its error; also warns."""
    rows: list[Row] = []
    index = 0
    for file, error, _ in entries:
        if error or not detections:
            rows.append({"name": file.name, "verdict": "unreadable", "error": str(error)})
            warn(str(error))
            continue
        rows.append(
            {
                "name": file.name,
                "score": float(detections.scores[index]),
                "p_value": float(detections.p_values[index]),
                "R": float(detections.reconstruction[index]),
                "L": float(detections.alignment[index]),
                "verdict": "anomalous" if detections.anomalous[index] else "normal",
                "calibration": detections.calibration,
            }
        )
        index += 1
    return rows
