"""Images to train on that are given in Python, without a folder."""

import zlib
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.cache import Decoded
from daad_jax.data.history import CALIBRATED, TRAINED
from daad_jax.data.images import prepare
from daad_jax.data.inputs import is_array, open_image, several
from daad_jax.data.samples import GOOD, TRAIN, FileRecord, NormalImage, Split, Splits
from daad_jax.errors import UserError


def collect_images(given: Any, config: DataConfig) -> Decoded:
    """Prepares images as those of a folder are prepared. All of them are good ones, to train on.

    Args:
        given: an array `[N, h, w]` or `[N, h, w, C]`, or an iterable of anything that `open_image` takes. A
            generator is consumed, and only the prepared images stay in memory.
        config: size, channels, and what to do with an image that cannot be read.

    Raises:
        UserError: there is no image, or an image cannot be used; the message names the image.
    """
    if is_array(given) and np.ndim(given) == 3:  # one image could not train anything
        given = list(np.asarray(given))
    images: list[np.ndarray] = []
    records: list[FileRecord] = []
    skipped: list[tuple[int, str]] = []
    for number, image in enumerate(several(given)):
        name = f"image {number}"
        try:
            picture, sha256 = open_image(image, name)
        except UserError as error:
            if config.on_bad_image == "stop":
                raise UserError(f"{error}, or set config.data.on_bad_image = 'skip'") from error
            skipped.append((number, str(error)))
            pixels, sha256 = np.zeros((config.height, config.width, config.channels), np.uint8), ""
        else:
            pixels = np.ascontiguousarray(prepare(picture, config, name))
        images.append(pixels)
        records.append(FileRecord(name, "training", sha256=sha256))
    if not images:
        raise UserError("no images were given to train on")
    return Decoded(
        images=np.stack(images),
        masks=None,
        parts=[TRAIN] * len(images),
        kinds=[GOOD] * len(images),
        names=[record.name for record in records],
        checksums=[_checksum(pixels) for pixels in images],
        skipped=skipped,
        files=records,
    )


def check_splits(splits: Splits, config: DataConfig) -> list[NormalImage]:
    """Checks splits that were made in Python.

    Returns:
        Their normal images, with their roles.

    Raises:
        UserError: the images are not uint8 `[N, H, W, C]` of the model's size, or a split that is needed is
            empty or has anomalous images.
    """
    shape = (config.height, config.width, config.channels)
    normal: list[NormalImage] = []
    for role, name in ((TRAINED, "train"), (CALIBRATED, "calibration"), ("", "test")):
        split: Split = getattr(splits, name)
        found = (tuple(np.shape(split.images)[1:]), str(split.images.dtype))
        if found != (shape, "uint8"):
            raise UserError(
                f"data.{name}.images: has images of shape {found[0]} and type {found[1]}, but the model "
                f"takes {shape} and uint8; bring them to that size, or give train a list of images as data"
            )
        if not len(split.images) == len(split.labels) == len(split.names) == len(split.kinds):
            raise UserError(f"data.{name}: needs as many labels, kinds and names as images")
        if not role:
            continue
        if not len(split) or split.labels.any():
            raise UserError(f"data.{name}: must have normal images (label 0), and no others")
        normal += [
            NormalImage(image_name, _checksum(split.images[i]), role=role)
            for i, image_name in enumerate(split.names)
        ]
    return normal


def _checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)
