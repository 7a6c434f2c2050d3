"""Decoded images as one memory-mapped file of 8 or 16 bits, made once, safe to delete at any time."""

import errno
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture, picture_size
from daad_jax.data.images import fit_mask, prepare
from daad_jax.data.integrity import (
    checksum,
    checksums_of_rows,
    has_checksums,
    read_sealed,
    sync,
    take_space,
    write_sealed,
)
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.data.samples import FileRecord, Sample, Source
from daad_jax.errors import UserError
from daad_jax.files import exclusive

FORMAT = 6  # of the files in an entry; entries of another format are not used
INDEX_FILE, IMAGES_FILE, MASKS_FILE = "index.json", "images.npy", "masks.npy"
FILLING_PREFIX, LOCK_FILE = ".filling-", ".lock"
NEW_LOCK_S = 60  # a process may need this long from creating its lock file to locking it
IMAGES_PER_TASK = 8  # a thread decodes this many before it reports
# Below this size of an image, threads lose more time to the interpreter's lock than they gain.
MIN_PIXELS_FOR_THREADS = 128 * 128
# Entries whose checksums this process has compared, by their path and the state of their index file.
_checked: set[tuple[Path, int, int]] = set()


@dataclass(frozen=True)
class Decoded:
    """All N images of a data set at the configured size.

    `images` uint8 or uint16 `[N, H, W, C]` and `masks` uint8 `[N, H, W]` of 0 and 1 (or None) are
    memory-mapped. `parts`, `kinds`, `names` and `checksums` (CRC-32 of the pixels) have N entries. `skipped`
    lists (index, reason) of the images that could not be read; their pixels are 0. `clipped` has the indices
    of the images with values outside the range of the run. `files` has a record of every file that was given.
    """

    images: np.ndarray
    masks: np.ndarray | None
    parts: list[str]
    kinds: list[str]
    names: list[str]
    checksums: list[int]
    skipped: list[tuple[int, str]]
    clipped: list[int]
    files: list[FileRecord]


def load_decoded(source: Source, config: DataConfig, check: bool = False) -> Decoded:
    """Opens the decoded images of `source` in the cache; decodes them first if they are missing or damaged.

    The first time that a process opens an entry, it compares all checksums.

    Args:
        source: of the images.
        config: size, range, and what to do with images that cannot be read.
        check: decode all files again, and replace the entry if one of them has other pixels now.

    Raises:
        UserError: an image cannot be read and `config.on_bad_image` is "stop", an image has another size
            and `config.fit` is "exact", a mask has another size than its image, or the cache directory
            cannot be written or is too full.
    """
    shape = (config.height, config.width, config.channels)
    levels = (config.range, config.bits, config.max_pixels)
    key = repr((FORMAT, source.identity, shape, levels, config.fit, config.on_bad_image))
    root = config.cache_directory
    entry = root / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    decoded = _open_entry(entry)
    if decoded is None and entry.exists():
        print(f"{entry}: this image cache is damaged; the images are decoded again", file=sys.stderr)
    if decoded is None or check:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _fill_entry(entry, source, config, decoded)
        except OSError as error:
            raise UserError(
                f"{root}: the image cache cannot be written ({error}); set config.data.cache_dir or "
                "DAAD_CACHE_DIR to a folder that can be written"
            ) from error
        decoded = _open_entry(entry)
    if decoded is None:
        raise UserError(f"{entry}: another program changed this image cache; run the command again")
    return decoded


def _open_entry(entry: Path) -> Decoded | None:
    """Opens a filled entry; None if it is missing or damaged."""
    try:
        state = (entry / INDEX_FILE).stat()
        index = read_sealed(entry / INDEX_FILE)
        images = np.load(entry / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
        masks = None
        if index["masks"]:
            masks = np.load(entry / MASKS_FILE, mmap_mode="r", allow_pickle=False)
        skipped = [(int(i), str(reason)) for i, reason in index["skipped"]]
        lists = index["parts"], index["kinds"], index["names"], index["checksums"]
        clipped = [int(i) for i in index["clipped"]]
        files = [FileRecord(**record) for record in index["files"]]
        decoded = Decoded(images, masks, *lists, skipped, clipped, files)
        known = entry.absolute(), state.st_mtime_ns, state.st_ino
        if known not in _checked:
            if not has_checksums(images, decoded.checksums):
                return None
            if masks is not None and not has_checksums(masks, index["mask_checksums"]):
                return None
            _checked.add(known)
    except (AttributeError, EOFError, OSError, ValueError, KeyError, TypeError):
        return None
    return decoded if len({len(entries) for entries in (images, *lists)}) == 1 else None


def _fill_entry(entry: Path, source: Source, config: DataConfig, before: Decoded | None) -> None:
    """Decodes into a temporary folder and renames it, so an entry appears whole or not at all.

    An entry that was there `before`, and is not damaged, stays if its images have the same pixels.
    """
    _remove_leftovers(entry.parent)
    # mkdtemp would make a folder that other users cannot read, and the entry may be shared.
    temporary = entry.with_name(f"{FILLING_PREFIX}{secrets.token_hex(8)}")
    temporary.mkdir()
    try:
        busy = f"{temporary}: another process is removing this folder; run the command again"
        with exclusive(temporary / LOCK_FILE, busy):
            _write_entry(temporary, source, config)
            if before and _agrees(before, read_sealed(temporary / INDEX_FILE)):
                return
            if entry.exists() and (before or _open_entry(entry) is None):  # outdated or damaged
                shutil.rmtree(entry, ignore_errors=True)
            try:
                os.replace(temporary, entry)
            except OSError:
                # Another process may have put the same bytes there first.
                if _open_entry(entry) is None:
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _agrees(before: Decoded, index: dict[str, Any]) -> bool:
    """Whether the files have the pixels that are in the cache; says so."""
    now = dict(zip(index["names"], index["checksums"]))
    then = dict(zip(before.names, before.checksums))
    others = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if not others and index["files"] == [asdict(file) for file in before.files]:
        print(f"check: all {len(now)} images in the cache have the pixels of their files")
        return True
    what = (
        f"{len(others)} of {len(now)} images ({others[0]}, ...) have" if others else "a mask or its file has"
    )
    print(f"check: {what} changed without a new time or size; the cache is replaced")
    return False


def _remove_leftovers(root: Path) -> None:
    """Removes temporary folders of killed processes; they can be as large as a data set."""
    for folder in root.glob(f"{FILLING_PREFIX}*"):
        lock = folder / LOCK_FILE
        with suppress(OSError, UserError):  # the folder has gone, or a process is filling it
            if time.time() - lock.stat().st_mtime > NEW_LOCK_S:
                with exclusive(lock, f"{folder}: another process is filling this folder") as is_locked:
                    if is_locked:
                        shutil.rmtree(folder)


def _write_entry(folder: Path, source: Source, config: DataConfig) -> None:
    """Decodes all images of `source` and writes the files of an entry into `folder`."""
    listing = source.read()
    samples = listing.samples
    has_masks = any(sample.load_mask for sample in samples)
    images, masks = _create_arrays(folder, len(samples), has_masks, config)
    checksums, skipped, clipped, digests = _decode_all(samples, images, masks, config)
    images.flush()
    if masks is not None:
        masks.flush()
    index = {
        "masks": has_masks,
        "mask_checksums": checksums_of_rows(masks) if masks is not None else [],
        "parts": [sample.part for sample in samples],
        "kinds": [sample.kind for sample in samples],
        "names": [sample.name for sample in samples],
        "checksums": checksums,
        "skipped": sorted(skipped),
        "clipped": sorted(clipped),
        "files": [
            asdict(replace(file, sha256=digests.get(file.name, file.sha256))) for file in listing.files
        ],
    }
    write_sealed(folder / INDEX_FILE, index)
    sync(folder)


def _create_arrays(
    folder: Path, count: int, has_masks: bool, config: DataConfig
) -> tuple[np.memmap, np.memmap | None]:
    """Creates the memory-mapped files of the images and, if there are any, of the masks.

    Raises:
        UserError: the disk has too little space. Writing mapped files to a full disk would kill the process.
    """
    size = (count, config.height, config.width)
    needed, free = _count_bytes(size, has_masks, config), shutil.disk_usage(folder).free
    too_full = UserError(
        f"{folder.parent}: the image cache needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are "
        "free; set config.data.cache_dir or DAAD_CACHE_DIR to a folder on a larger disk"
    )
    if needed > free:
        raise too_full
    create = np.lib.format.open_memmap
    images = create(folder / IMAGES_FILE, "w+", np.dtype(config.prepared_type), (*size, config.channels))
    masks = create(folder / MASKS_FILE, "w+", np.uint8, size) if has_masks else None
    try:
        for name in (IMAGES_FILE, MASKS_FILE)[: 1 + has_masks]:
            take_space(folder / name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise too_full from error
        raise
    return images, masks


def _count_bytes(size: tuple[int, int, int], has_masks: bool, config: DataConfig) -> int:
    """The bytes that images, and their masks, of a size `(N, H, W)` take."""
    return int(np.prod(size)) * (config.channels * np.dtype(config.prepared_type).itemsize + has_masks)


def _decode_all(
    samples: Sequence[Sample], images: np.ndarray, masks: np.ndarray | None, config: DataConfig
) -> tuple[list[int], list[tuple[int, str]], list[int], dict[str, str]]:
    """Decodes every sample into its row of `images` and `masks`.

    Returns:
        The checksums of all images; (index, reason) of every image that could not be read, and the index of
        every image with values outside the range, in any order; the SHA-256 of every file that was read, by
        name.

    Raises:
        UserError: see `load_decoded`.
    """
    checksums = [checksum(images[0] * 0)] * len(samples) if samples else []
    skipped: list[tuple[int, str]] = []
    clipped: list[int] = []
    digests: dict[str, str] = {}

    def decode_one(index: int) -> int:
        """Decodes one image, and returns the number of pixels it has in its file."""
        sample = samples[index]
        try:
            picture, digest = sample.load()
            mask, mask_digests = sample.load_mask() if sample.load_mask else (None, {})
        except UserError as error:
            if config.on_bad_image == "stop":
                raise UserError(f"{error}, or set config.data.on_bad_image = 'skip'") from error
            skipped.append((index, str(error)))
            return 0
        digests.update(mask_digests | {sample.file: digest})
        prepared = np.ascontiguousarray(prepare(picture, config, sample.name))
        images[index], checksums[index] = prepared, checksum(prepared)
        if exceeds_range(picture, config):
            clipped.append(index)
        if masks is not None and mask is not None:
            _require_same_size(mask, picture, sample)
            masks[index] = fit_mask(mask, config, sample.name)
        rows, columns = picture_size(picture)
        return rows * columns

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
    return checksums, skipped, clipped, digests


def _require_same_size(mask: np.ndarray, picture: Picture, sample: Sample) -> None:
    """Raises UserError if a mask `[h, w]` has another size than its image."""
    rows, columns = picture_size(picture)
    if mask.shape != (rows, columns):
        raise UserError(
            f"{sample.name}: the mask has {mask.shape[0]} x {mask.shape[1]} pixels, but the image has "
            f"{rows} x {columns}; give a mask of the image's size"
        )
