"""Draws scored images with their heat maps into files, in threads."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from daad_jax.data.image_files import ImageFile
from daad_jax.data.images import resize, show_pixels, shrink_to_fit, undo_fit
from daad_jax.detection.decoding_ahead import Entry
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.detection.overlay import draw_overlay
from daad_jax.detection.score_table import REMEDY, Row
from daad_jax.errors import UserError
from daad_jax.escaping import for_file_name
from daad_jax.files import explain_write_errors, replacing
from daad_jax.terminal import warn

MAX_OVERLAY_SIDE = 1024  # pixels of the longer side
MAX_OVERLAY_NAME = 200  # bytes; a name has at most 255, and the temporary file's name is longer
Drawing = tuple[Row, Future[None]]  # the row of an image, and the thread that draws its overlay


class Overlays:
    """Draws the overlays of a batch in threads.

    Args:
        detector: scored the images.
        out: the folder for `overlays/`.
        which: the images that get an overlay: "anomalous", "all" or "none".
        pool: the threads.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, detector: Detector, out: Path, which: str, pool: ThreadPoolExecutor) -> None:
        self._detector, self._out, self._which, self._pool = detector, out, which, pool
        if which != "none":
            with explain_write_errors(out, REMEDY):
                (out / "overlays").mkdir(parents=True, exist_ok=True)

    def start(
        self, entries: list[Entry], rows: list[Row], detections: Detections | None, numbers: list[int]
    ) -> list[Drawing]:
        """Starts to draw the overlays of a batch, and notes their names in the rows.

        Args:
            entries: the images of the batch.
            rows: the row of each image.
            detections: the detections of the readable images; None if no image is readable.
            numbers: the number of each image; the name of an overlay begins with it.
        """
        drawings: list[Drawing] = []
        index = 0
        for number, entry, row in zip(numbers, entries, rows, strict=True):
            if "score" not in row or not detections:
                continue
            if self._which == "all" or (self._which == "anomalous" and row["verdict"] == "anomalous"):
                stem = for_file_name(entry.file.path.stem[:80], MAX_OVERLAY_NAME)
                row["overlay"] = f"overlays/{number:07d}-{stem}.png"
                file, heat = self._out / row["overlay"], detections.heat[index]
                drawings.append((row, self._pool.submit(_draw, entry.file, heat, self._detector, file)))
            index += 1
        return drawings


def _draw(image: ImageFile, heat: np.ndarray, detector: Detector, file: Path) -> None:
    """Writes an image with its heat map, in the size of the image, but no side over MAX_OVERLAY_SIDE."""
    data = detector.config.data
    pixels = show_pixels(image.load(data.max_pixels)[0], data)
    height, width = pixels.shape[:2]
    # Shrink the image first, because drawing takes 80 bytes a pixel.
    size = shrink_to_fit(height, width, MAX_OVERLAY_SIDE, MAX_OVERLAY_SIDE)
    shown_heat = undo_fit(heat, height, width, data.fit, size)
    picture = Image.fromarray(draw_overlay(resize(pixels, *size), shown_heat))
    with replacing(file) as temporary:
        picture.save(temporary, format="png")


def finish(drawings: list[Drawing]) -> None:
    """Waits for the overlays. If an image was removed after scoring, its row loses the overlay's name."""
    for row, drawing in drawings:
        try:
            drawing.result()
        except UserError as error:
            del row["overlay"]
            warn(f"no overlay: {error}")
