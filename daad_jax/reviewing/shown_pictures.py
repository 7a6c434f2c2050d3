"""Makes the pictures of the page: thumbnails, images, heat maps and reconstructions."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture, picture_size
from daad_jax.data.image_files import ImageFile
from daad_jax.data.images import resize, show_pixels, shrink_to_fit, to_uint8, undo_fit
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.detection.overlay import draw_heat
from daad_jax.errors import UserError
from daad_jax.reviewing.folder_images import ReviewImage
from daad_jax.reviewing.score_store import ScoreStore

THUMBNAIL_SIDE = 192  # pixels
SMALL_SIDE = 64  # pixels; thumbnails of images up to this size are PNG, without loss
MAX_SHOWN_SIDE = 8192  # pixels; larger images are shown smaller
MAX_PNG_PIXELS = 4_000_000  # larger images are sent as JPEG
MAX_HEAT_SIDE = 1024  # pixels; the browser scales the map to the image
CACHE_BYTES = 256 * 2**20


class Shown(NamedTuple):
    """An encoded picture: `content` is a file of the type `kind`."""

    content: bytes
    kind: str


class Pictures:
    """Makes a picture when the page asks for the picture, and keeps the pictures that were shown last.

    Args:
        data: says how the run reads images.
        store: keeps thumbnails.
        detector: returns the detector, which heat maps and reconstructions need.
        digest_of: returns the SHA-256 of the file that was scored, "" if none was. Another file is not shown,
            because the score and the marks are not of this file.
    """

    def __init__(
        self,
        data: DataConfig,
        store: ScoreStore,
        detector: Callable[[], Detector],
        digest_of: Callable[[ReviewImage], str],
    ) -> None:
        self._data, self._store, self._detector, self._digest_of = data, store, detector, digest_of
        self._cache = RecentPictures(CACHE_BYTES)
        self._scoring = threading.Lock()  # here, only one image at a time goes through the model

    def thumbnail(self, image: ReviewImage) -> Shown:
        """Returns a small picture. Raises UserError if the image cannot be read."""
        content = self._store.read_thumbnail(image.id, image.stamp)
        if content is None:
            picture = self._load(image)
            content = self.keep_thumbnail(image, picture)
        return Shown(content, _kind_of(content))

    def keep_thumbnail(self, image: ReviewImage, picture: Picture) -> bytes:
        """Makes the thumbnail of a decoded image, keeps the thumbnail, and returns its file."""
        pixels = show_pixels(picture, self._data)
        height, width = pixels.shape[:2]
        size = shrink_to_fit(height, width, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        is_small = max(height, width) <= SMALL_SIDE
        content = _encode(resize(pixels, *size), "PNG" if is_small else "JPEG", quality=80).content
        self._store.write_thumbnail(image.id, image.stamp, content)
        return content

    def whole(self, image: ReviewImage) -> Shown:
        """Returns the image in its own size, at most 8192 pixels. Raises UserError if it cannot be read."""

        def make() -> Shown:
            pixels = show_pixels(self._load(image), self._data)
            height, width = pixels.shape[:2]
            size = shrink_to_fit(height, width, MAX_SHOWN_SIDE, MAX_SHOWN_SIDE)
            if size != (height, width):
                pixels = resize(pixels, *size)
            if size[0] * size[1] <= MAX_PNG_PIXELS:
                return _encode(pixels, "PNG", compress_level=1)
            return _encode(pixels, "JPEG", quality=95, subsampling=0)

        return self._cache.get(("whole", image.id, image.stamp), make)

    def heat(self, image: ReviewImage) -> Shown:
        """Returns the heat map as a layer over the image, transparent at normal places.

        Raises:
            UserError: the image cannot be scored.
        """
        return self._of_model("heat", image)

    def reconstruction(self, image: ReviewImage) -> Shown | None:
        """Returns the image as the model reconstructs it; None if the model reads features.

        Raises:
            UserError: the image cannot be scored.
        """
        shown = self._of_model("reconstruction", image)
        return shown if shown.content else None

    def _of_model(self, what: str, image: ReviewImage) -> Shown:
        detector = self._detector()
        about = image.id, image.stamp, detector.calibration_label.id

        def make() -> Shown:
            with self._scoring:
                shown = {key: self._cache.peek((key, *about)) for key in ("heat", "reconstruction")}
                if not all(shown.values()):
                    shown = self._score(detector, image)
                    for key, each in shown.items():
                        if key != what and each:
                            self._cache.put((key, *about), each)
            found = shown[what]
            assert found is not None
            return found

        return self._cache.get((what, *about), make)

    def _score(self, detector: Detector, image: ReviewImage) -> dict[str, Shown | None]:
        """Makes both pictures of the model in one pass. Raises UserError if the image cannot be scored."""
        sizes: list[tuple[int, int]] = []

        def note(picture: Picture) -> None:
            sizes.append(picture_size(picture))

        ((entries, detections),) = detector.stream([WatchedFile.of(image.file, note)])
        if error := entries[0].error:
            raise error
        self._require_unchanged(image, entries[0].sha256)
        assert detections is not None
        return {
            "heat": self._draw_heat(detections, *sizes[0]),
            "reconstruction": self._draw_reconstruction(detections, *sizes[0]),
        }

    def _load(self, image: ReviewImage) -> Picture:
        """Decodes an image. Raises UserError if it cannot be read, or has changed since it was scored."""
        picture, digest = image.file.load(self._data.max_pixels)
        self._require_unchanged(image, digest)
        return picture

    def _require_unchanged(self, image: ReviewImage, digest: str) -> None:
        if self._digest_of(image) not in ("", digest):
            raise UserError(f"{image.name}: has changed since it was scored; start the review again")

    def _draw_heat(self, found: Detections, height: int, width: int) -> Shown:
        size = shrink_to_fit(height, width, MAX_HEAT_SIDE, MAX_HEAT_SIDE)
        heat = undo_fit(np.asarray(found.heat[0]), height, width, self._data.fit, size)
        return _encode(draw_heat(heat), "PNG", compress_level=3)

    def _draw_reconstruction(self, found: Detections, height: int, width: int) -> Shown:
        if found.reconstructions is None:
            return Shown(b"", "")
        pixels = to_uint8(np.asarray(found.reconstructions[0]))
        rows, columns = min(height, pixels.shape[0]), min(width, pixels.shape[1])
        size = shrink_to_fit(height, width, max(rows, columns), max(rows, columns))
        planes = [
            undo_fit(pixels[..., c].astype(np.float32), height, width, self._data.fit, size)
            for c in range(pixels.shape[-1])
        ]
        return _encode(np.rint(np.stack(planes, -1)).clip(0, 255).astype(np.uint8), "PNG", compress_level=3)


class WatchedFile(ImageFile):
    """An image file that calls `watcher` with each picture that it decodes."""

    watcher: Callable[[Picture], object]

    @classmethod
    def of(cls, file: ImageFile, watcher: Callable[[Picture], object]) -> "WatchedFile":
        watched = cls(*file)
        watched.watcher = watcher
        return watched

    def load(self, max_pixels: int) -> tuple[Picture, str]:
        picture, digest = super().load(max_pixels)
        self.watcher(picture)
        return picture, digest


class RecentPictures:
    """Keeps pictures by their keys, at most `max_bytes`. Drops the least recently used pictures first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes, self._lock = max_bytes, 0, threading.Lock()
        self._pictures: OrderedDict[tuple[str, ...], Shown] = OrderedDict()

    def get(self, key: tuple[str, ...], make: Callable[[], Shown]) -> Shown:
        """Returns the picture of a key. Calls `make` if the picture is not kept."""
        if (found := self.peek(key)) is None:
            found = make()
            self.put(key, found)
        return found

    def peek(self, key: tuple[str, ...]) -> Shown | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def put(self, key: tuple[str, ...], shown: Shown) -> None:
        with self._lock:
            self._bytes += len(shown.content) - len(self._pictures.pop(key, Shown(b"", "")).content)
            self._pictures[key] = shown
            while self._bytes > self._max_bytes:
                _, oldest = self._pictures.popitem(last=False)
                self._bytes -= len(oldest.content)


def _encode(pixels: np.ndarray, format_: str, **options: int) -> Shown:
    """Encodes pixels, uint8 `[h, w, 1, 3 or 4]`."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format_, **options)
    return Shown(file.getvalue(), f"image/{format_.lower()}")


def _kind_of(content: bytes) -> str:
    return "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
