"""Prepares training images that come from Python, without a folder."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import account, aspect, pixel_range
from daad_jax.data.cache import Decoded
from daad_jax.data.decoding import Picture, picture_size
from daad_jax.data.history import CALIBRATED, TRAINED
from daad_jax.data.images import prepare, prepare_tiles
from daad_jax.data.inputs import is_array, open_image, several
from daad_jax.data.integrity import checksum
from daad_jax.data.samples import GOOD, TRAIN, FileRecord, NormalImage, Split, Splits
from daad_jax.data.tiles import TileGrid, Tiling
from daad_jax.errors import UserError

FIRST_IMAGES = 16


def collect_images(given: Any, config: DataConfig) -> tuple[Decoded, DataConfig, list[str]]:
    """Prepares images in the way that images of a folder are prepared. All images count as good.

    Args:
        given: an array `[N, h, w]` or `[N, h, w, C]`, or an iterable of anything that `open_image` takes. A
            generator is consumed, and only the prepared images stay in memory. Images of more than 8 bits
            wait unprepared for the last image, because the range depends on all images. If `config.fit` is
            "aspect", the size depends on the shapes of the first `FIRST_IMAGES` images.
        config: has the size, channels and range, and says what to do with an unreadable image.

    Returns:
        The images; the configuration with the size, the range and the bits that were found; and sentences
        about these values, see `aspect.resolve` and `pixel_range.resolve`.

    Raises:
        UserError: there is no image, or an image cannot be used; the message names the image.
    """
    if is_array(given) and np.ndim(given) == 3:  # one image could not train anything
        given = list(np.asarray(given))
    prepared: dict[int, np.ndarray] = {}  # [1, H, W, C] each, or the image's tiles
    sizes: dict[int, tuple[int, int]] = {}
    waiting: dict[int, Picture] = {}
    records: list[FileRecord] = []
    skipped: list[tuple[int, str]] = []
    images = several(given)
    config, images, size_notes = _find_size(images, config)
    found = pixel_range.Found(Counter(), {})
    # Pixels of 8 bits always go by the range of their type, unless the user names a range.
    plain = replace(config, range="type", bits=8) if config.range in ("auto", "type") else None
    for number, image in enumerate(images):
        name, sha256 = _name(number), ""
        try:
            picture, sha256 = open_image(image, name, config.max_pixels)
        except UserError as error:
            if config.on_bad_image == "stop":
                raise UserError(f"{error}, or set config.data.on_bad_image = 'skip'") from error
            skipped.append((number, str(error)))
        else:
            found.add(picture)
            sizes[number] = picture_size(picture)
            if plain and not config.bits and not isinstance(picture, np.ndarray):
                prepared[number] = _prepare_rows(picture, plain, name)
            else:
                waiting[number] = picture
        records.append(FileRecord(name, account.TRAINING, sha256=sha256))
    if not records:
        raise UserError("no images were given to train on")
    resolved = pixel_range.decide(found, config)
    if resolved.bits == 16:
        prepared = {number: pixels * np.uint16(257) for number, pixels in prepared.items()}
    clipped = [number for number, p in waiting.items() if pixel_range.exceeds_range(p, resolved)]
    for number in sorted(waiting):
        prepared[number] = _prepare_rows(waiting.pop(number), resolved, _name(number))
    # An image that cannot be read has a row of zeros, or no tile.
    shape = (config.height, config.width, config.channels)
    missing = np.zeros((0 if config.tiles else 1, *shape), resolved.prepared_type)
    rows = [prepared.pop(number, missing) for number in range(len(records))]
    checksums = [checksum(of_image) for of_image in rows]
    in_order = [sizes.get(number, (0, 0)) for number in range(len(records))]
    decoded = Decoded(
        images=np.concatenate(rows),
        masks=None,
        parts=[TRAIN] * len(records),
        kinds=[GOOD] * len(records),
        names=[record.name for record in records],
        checksums=checksums,
        skipped=skipped,
        clipped=clipped,
        files=records,
        sizes=in_order,
        tiling=Tiling.in_order([TileGrid.of(size, config) for size in in_order]) if config.tiles else None,
    )
    return decoded, resolved, size_notes + pixel_range.describe(resolved, found)


def _find_size(images: Iterable[Any], config: DataConfig) -> tuple[DataConfig, Iterable[Any], list[str]]:
    """Returns the configuration with the size of the first images; all images; sentences about the size."""
    rest = iter(images)
    first = list(itertools.islice(rest, FIRST_IMAGES if aspect.follows_images(config) else 0))
    sizes = []
    for number, image in enumerate(first):
        with contextlib.suppress(UserError):  # an image that cannot be read is reported when it is prepared
            sizes.append(picture_size(open_image(image, _name(number), config.max_pixels)[0]))
    found, notes = aspect.decide(sizes, config)
    return found, itertools.chain(first, rest), notes


def _prepare_rows(picture: Picture, config: DataConfig, name: str) -> np.ndarray:
    """Returns the prepared image as `[1, H, W, C]`, or its tiles `[count, H, W, C]`."""
    if config.tiles:
        return np.stack(list(prepare_tiles(picture, config, name)))
    return prepare(picture, config, name)[None]


def _name(number: int) -> str:
    return f"image {number}"


def check_splits(splits: Splits, config: DataConfig) -> list[NormalImage]:
    """Checks splits that were made in Python.

    Returns:
        Their normal images, with their roles.

    Raises:
        UserError: the images are not uint8 or uint16 `[N, H, W, C]` of the model's size, or one of the
            splits `train` and `calibration` is empty or has anomalous images.
    """
    shape = (config.height, config.width, config.channels)
    normal: list[NormalImage] = []
    for role, name in ((TRAINED, "train"), (CALIBRATED, "calibration"), ("", "test")):
        split: Split = getattr(splits, name)
        found = (tuple(np.shape(split.images)[1:]), str(split.images.dtype))
        if found[0] != shape or found[1] not in ("uint8", "uint16"):
            raise UserError(
                f"data.{name}.images: has images of shape {found[0]} and type {found[1]}, but the model "
                f"takes {shape} and uint8 or uint16; bring them to that size, or give train a list of images "
                "as data"
            )
        if found[1] != str(splits.train.images.dtype):
            raise UserError(
                f"data.{name}.images: is of type {found[1]}, but data.train.images of type "
                f"{splits.train.images.dtype}; give all images the same type"
            )
        if not len(split.images) == len(split.labels) == len(split.names) == len(split.kinds):
            raise UserError(f"data.{name}: needs as many labels, kinds and names as images")
        if not role:
            continue
        if not len(split) or split.labels.any():
            raise UserError(f"data.{name}: must have normal images (label 0), and no others")
        normal += [
            NormalImage(image_name, checksum(split.images[i]), role=role)
            for i, image_name in enumerate(split.names)
        ]
    return normal
