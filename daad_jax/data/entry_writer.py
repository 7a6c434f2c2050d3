"""Decodes all images of a source, and writes the files of a cache entry."""

import os
import shutil
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from daad_jax.config import DataConfig
from daad_jax.data import integrity
from daad_jax.data.decoding import Picture, is_grey_picture, picture_size
from daad_jax.data.growing_array import GrowingArray
from daad_jax.data.images import fit_mask, fit_mask_to_tiles, prepare, prepare_tiles
from daad_jax.data.integrity import NO_SPACE
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.data.samples import Sample, Source
from daad_jax.errors import UserError

INDEX_FILE, IMAGES_FILE, MASKS_FILE = "index.json", "images.npy", "masks.npy"
IMAGES_PER_TASK = 8  # a thread decodes this many images before it reports
# For smaller images, threads lose more time to the interpreter's lock than they gain.
MIN_PIXELS_FOR_THREADS = 128 * 128


def write_entry(folder: Path, name: str, source: Source, config: DataConfig) -> str:
    """Decodes all images of `source` and writes the files of the entry `name` into `folder`.

    Returns:
        The SHA-256 of the index.

    Raises:
        UserError: see `cache.load_decoded`.
    """
    # Decode all images into the files of pixels.
    listing = source.read()
    samples = listing.samples
    has_masks = any(sample.load_mask for sample in samples)
    rows: _Rows
    if config.tiles:
        rows = _TileRows(folder, len(samples), has_masks, config)
    else:
        rows = _ImageRows(folder, len(samples), has_masks, config)
    try:
        outcome = _decode_all(samples, rows, config)
        about_rows = rows.finish()
    finally:
        rows.close()
    # Write the index.
    index = {
        "entry": name,
        **about_rows,
        "parts": [sample.part for sample in samples],
        "kinds": [sample.kind for sample in samples],
        "names": [sample.name for sample in samples],
        "checksums": outcome.checksums,
        "skipped": sorted(outcome.skipped),
        "clipped": sorted(outcome.clipped),
        "grey": sorted(outcome.grey),
        "sizes": outcome.sizes,
        "files": [
            asdict(replace(file, sha256=outcome.sha256_of_files.get(file.name, file.sha256)))
            for file in listing.files
        ],
        "digests": outcome.sha256_of_samples,
    }
    digest = integrity.write_index(folder / INDEX_FILE, index)
    # Wait for the disk before the entry gets its name, so that a power cut leaves a whole entry or none.
    for file in folder.iterdir():
        integrity.sync(file)
    integrity.sync(folder)
    return digest


class _Rows(Protocol):
    """Writes the files of pixels of an entry."""

    def store(self, index: int, picture: Picture, mask: np.ndarray | None, name: str) -> int:
        """Prepares and stores image `index` and its mask `[h, w]`; returns the checksum of its pixels."""

    def leave_out(self, index: int) -> int:
        """Notes that image `index` could not be read; returns the checksum of its pixels."""

    def finish(self) -> dict[str, Any]:
        """Writes the rest from memory, and returns the description of the files for the index."""

    def close(self) -> None:
        """Closes the files, also after an error."""


class _ImageRows:
    """One row for each image. The size of the files is known, so their space is taken first."""

    def __init__(self, folder: Path, count: int, has_masks: bool, config: DataConfig) -> None:
        """Raises UserError if the disk has too little space."""
        self._folder, self._config = folder, config
        size = (count, config.height, config.width)
        try:
            self._images = integrity.create_array(
                folder / IMAGES_FILE, (*size, config.channels), config.prepared_type
            )
            self._masks = integrity.create_array(folder / MASKS_FILE, size, np.uint8) if has_masks else None
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            bytes_per_pixel = config.channels * np.dtype(config.prepared_type).itemsize + has_masks
            raise _no_space(
                folder, f"needs {int(np.prod(size)) * bytes_per_pixel / 1e6:.0f}", error
            ) from error

    def store(self, index: int, picture: Picture, mask: np.ndarray | None, name: str) -> int:
        prepared = prepare(picture, self._config, name)
        self._images[index] = prepared
        if self._masks is not None and mask is not None:
            self._masks[index] = fit_mask(mask, self._config, name)
        return integrity.checksum(prepared)

    def leave_out(self, index: int) -> int:
        return integrity.checksum(self._images[index])

    def finish(self) -> dict[str, Any]:
        for array in (self._images, self._masks):
            if array is not None:
                array.flush()
        return _describe_files(
            self._folder,
            self._images,
            self._masks,
            [] if self._masks is None else integrity.row_checksums(self._masks),
        )

    def close(self) -> None:
        pass


class _TileRows:
    """One row for each tile. The images come in the order in which threads finish them."""

    def __init__(self, folder: Path, count: int, has_masks: bool, config: DataConfig) -> None:
        size = (config.height, config.width)
        self._folder, self._config, self._lock = folder, config, threading.Lock()
        self._images = GrowingArray(folder / IMAGES_FILE, (*size, config.channels), config.prepared_type)
        self._masks = GrowingArray(folder / MASKS_FILE, size, np.uint8) if has_masks else None
        self._first_rows = [0] * count

    def store(self, index: int, picture: Picture, mask: np.ndarray | None, name: str) -> int:
        tiles = np.stack(list(prepare_tiles(picture, self._config, name)))
        if mask is None:
            mask_tiles = np.zeros(tiles.shape[:3], np.uint8)
        else:
            mask_tiles = fit_mask_to_tiles(mask, self._config)
        try:
            with self._lock:
                self._first_rows[index] = self._images.append(tiles)
                if self._masks is not None:
                    self._masks.append(mask_tiles)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            written = len(self._images.checksums) * tiles[0].nbytes / 1e6
            raise _no_space(self._folder, f"needs more than {written:.0f}", error) from error
        return integrity.checksum(tiles)

    def leave_out(self, index: int) -> int:
        return 0

    def finish(self) -> dict[str, Any]:
        images, masks = self._images.finish(), self._masks.finish() if self._masks else None
        tiles = {
            "side": self._config.tiles,
            "first_rows": self._first_rows,
            "row_checksums": self._images.checksums,
        }
        mask_checksums = self._masks.checksums if self._masks else []
        return _describe_files(self._folder, images, masks, mask_checksums) | {"tiles": tiles}

    def close(self) -> None:
        for array in (self._images, self._masks):
            if array is not None:
                array.close()


def _describe_files(
    folder: Path, images: np.memmap, masks: np.memmap | None, mask_checksums: list[int]
) -> dict[str, Any]:
    return {
        "images": integrity.describe_array(folder / IMAGES_FILE, images),
        "masks": None if masks is None else integrity.describe_array(folder / MASKS_FILE, masks),
        "mask_checksums": mask_checksums,
    }


def _no_space(folder: Path, needs: str, error: OSError) -> UserError:
    free = shutil.disk_usage(folder).free
    return UserError(
        f"{folder.parent}: the image cache {needs} MB, but the system does not give them ({error.strerror}; "
        f"{free / 1e6:.0f} MB are free); set config.data.cache_dir or DAAD_CACHE_DIR to a folder on a larger "
        "disk"
    )


class _Outcome:
    """The results of decoding N samples.

    Attributes:
        checksums: the CRC-32 of each image's pixels, `[N]`.
        skipped: (index, reason) of each image that could not be read, in any order.
        clipped: the index of each image with values outside the range, in any order.
        grey: the index of each image with a single channel, in any order.
        sizes: rows and columns of each image in its file; (0, 0) if it could not be read.
        sha256_of_files: the SHA-256 of each file that was read, by name.
        sha256_of_samples: the SHA-256 of each image without a file; "" if the image has a file.
    """

    def __init__(self, count: int) -> None:
        self.checksums, self.sizes = [0] * count, [(0, 0)] * count
        self.skipped: list[tuple[int, str]] = []
        self.clipped: list[int] = []
        self.grey: list[int] = []
        self.sha256_of_files: dict[str, str] = {}
        self.sha256_of_samples = [""] * count


def _decode_all(samples: Sequence[Sample], rows: _Rows, config: DataConfig) -> _Outcome:
    """Decodes every sample, and stores it in `rows`.

    Raises:
        UserError: see `cache.load_decoded`.
    """
    outcome = _Outcome(len(samples))

    def decode_one(index: int) -> int:
        """Decodes one image, and returns the number of pixels it has in its file."""
        sample = samples[index]
        try:
            picture, digest = sample.load()
            mask, mask_digests = sample.load_mask() if sample.load_mask else (None, {})
        except UserError as error:
            if config.on_bad_image == "stop":
                raise UserError(f"{error}, or set config.data.on_bad_image = 'skip'") from error
            outcome.skipped.append((index, str(error)))
            outcome.checksums[index] = rows.leave_out(index)
            return 0
        outcome.sha256_of_files.update(mask_digests | ({sample.file: digest} if sample.file else {}))
        outcome.sha256_of_samples[index] = "" if sample.file else digest
        if mask is not None:
            _require_same_size(mask, picture, sample)
        outcome.checksums[index] = rows.store(index, picture, mask, sample.name)
        if exceeds_range(picture, config):
            outcome.clipped.append(index)
        if is_grey_picture(picture):
            outcome.grey.append(index)
        height, width = outcome.sizes[index] = picture_size(picture)
        return height * width

    def decode_task(start: int) -> int:
        """Decodes the images of one task, and returns their number."""
        indices = range(start, min(start + IMAGES_PER_TASK, len(samples)))
        for index in indices:
            decode_one(index)
        return len(indices)

    with tqdm(total=len(samples), desc="decoding", unit="image", disable=not sys.stderr.isatty()) as bar:
        # The first image decides whether threads pay off: Pillow releases the interpreter's lock only
        # while it decodes and scales.
        first = min(1, len(samples))
        are_small = bool(first) and decode_one(0) < MIN_PIXELS_FOR_THREADS
        bar.update(first)
        starts = range(first, len(samples), IMAGES_PER_TASK)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for count in (map if are_small else pool.map)(decode_task, starts):
                bar.update(count)
    return outcome


def _require_same_size(mask: np.ndarray, picture: Picture, sample: Sample) -> None:
    """Raises UserError if a mask `[h, w]` has another size than its image."""
    rows, columns = picture_size(picture)
    if mask.shape != (rows, columns):
        raise UserError(
            f"{sample.name}: the mask has {mask.shape[0]} x {mask.shape[1]} pixels, but the image has "
            f"{rows} x {columns}; give a mask of the image's size"
        )
