"""Decoded images as one memory-mapped file of 8 or 16 bits, made once, safe to delete at any time."""

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from daad_jax.config import DataConfig
from daad_jax.data import integrity
from daad_jax.data.decoding import Picture, picture_size
from daad_jax.data.entry_folders import LOCK_FILE, identify, make_temporary, remove_leftovers, set_aside
from daad_jax.data.images import fit_mask, prepare
from daad_jax.data.integrity import NO_SPACE, Damaged
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.data.samples import FileRecord, Sample, Source
from daad_jax.errors import UserError
from daad_jax.files import exclusive
from daad_jax.terminal import warn

FORMAT = 7  # of the files in an entry; entries of another format are not used
INDEX_FILE, IMAGES_FILE, MASKS_FILE = "index.json", "images.npy", "masks.npy"
IMAGES_PER_TASK = 8  # a thread decodes this many before it reports
# Below this size of an image, threads lose more time to the interpreter's lock than they gain.
MIN_PIXELS_FOR_THREADS = 128 * 128
_verified: set[tuple[str, ...]] = set()  # entries whose checksums this process has compared, or made


@dataclass(frozen=True)
class Decoded:
    """All N images of a data set at the configured size.

    `images` uint8 or uint16 `[N, H, W, C]` and `masks` uint8 `[N, H, W]` of 0 and 1 (or None) are
    memory-mapped. `parts`, `kinds`, `names` and `checksums` (CRC-32 of the pixels) have N entries. `skipped`
    lists (index, reason) of the images that could not be read; their pixels are 0. `clipped` has the indices
    of the images with values outside the range of the run. `files` has a record of every file that was given.
    `digests` has the SHA-256 of the encoded images that have no file, "" for the others.
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
    digests: list[str] = field(default_factory=list)


def load_decoded(source: Source, config: DataConfig, check: bool = False) -> Decoded:
    """Opens the decoded images of `source` in the cache; decodes them first if they are missing or damaged.

    An entry's checksums are compared when this process first uses it. A damaged entry is replaced as a whole,
    so that other processes that use it are not disturbed.

    Args:
        source: the source.
        config: size and channels, and where the cache is.
        check: whether to read all files of the source again, and to decode them if one of them has changed
            although its name, size and times have not.

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
    decoded, rejected = _open_sound(entry)
    if decoded and check:
        sha256_of_files = {file.name: file.sha256 for file in decoded.files}
        if changed := integrity.find_changed(source, sha256_of_files, decoded.digests):
            warn(
                f"{changed} has changed, but its name, size and times have not; all images are decoded again"
            )
            decoded, rejected = None, identify(entry)
    if decoded is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _fill_entry(entry, source, config, rejected)
        except OSError as error:
            raise UserError(
                f"{root}: the image cache cannot be written ({error}); set config.data.cache_dir or "
                "DAAD_CACHE_DIR to a folder that can be written"
            ) from error
        decoded, _ = _open_sound(entry)
    if decoded is None:
        raise UserError(f"{entry}: another program changed this image cache; run the command again")
    return decoded


def _open_sound(entry: Path) -> tuple[Decoded | None, tuple[int, ...]]:
    """Opens a filled entry if it is there and not damaged, and says in a line if it is damaged.

    Returns:
        The decoded images or None; and what `identify` says about a damaged entry, else ().
    """
    identity = identify(entry)
    try:
        return (_open_entry(entry) if identity else None), ()
    except Damaged as damage:
        warn(f"{entry}: this part of the image cache is damaged ({damage}); its images are decoded again")
        return None, identity


def _open_entry(entry: Path) -> Decoded:
    """Opens a filled entry, and compares its checksums if this process has not done so.

    Raises:
        Damaged: something is missing, or not what was written.
    """
    index, digest = integrity.read_index(entry / INDEX_FILE)
    try:
        checksums, mask_checksums = index["checksums"], index["mask_checksums"]
        images = integrity.open_array(entry / IMAGES_FILE, *index["images"])
        masks = integrity.open_array(entry / MASKS_FILE, *index["masks"]) if index["masks"] else None
        skipped = [(int(i), str(reason)) for i, reason in index["skipped"]]
        lists = index["parts"], index["kinds"], index["names"], checksums
        clipped = [int(i) for i in index["clipped"]]
        files = [FileRecord(**record) for record in index["files"]]
        decoded = Decoded(images, masks, *lists, skipped, clipped, files, index["digests"])
        if {len(entries) for entries in lists} != {len(images)}:
            raise ValueError("lists of different lengths")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{INDEX_FILE} is the index of something else") from error
    if index.get("entry") != entry.name:
        raise Damaged(f"the entry belongs to the images of {index.get('entry')}")
    key = _verification_key(entry, digest)
    if key not in _verified:
        integrity.verify_rows(entry / IMAGES_FILE, images, checksums)
        if masks is not None:
            integrity.verify_rows(entry / MASKS_FILE, masks, mask_checksums)
        _verified.add(key)
    return decoded


def _verification_key(entry: Path, digest: str) -> tuple[str, ...]:
    """What changes if an entry is replaced, or its files are written."""
    files = [file for name in (IMAGES_FILE, MASKS_FILE) if (file := entry / name).exists()]
    stamps = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in map(Path.stat, files)]
    return str(entry), digest, str(stamps)


def _fill_entry(entry: Path, source: Source, config: DataConfig, rejected: tuple[int, ...]) -> None:
    """Decodes into a temporary folder and renames it, so an entry appears whole or not at all.

    Args:
        entry: the folder to make.
        source: the source.
        config: see `load_decoded`.
        rejected: what `identify` says about an entry that must be replaced, else ().
    """
    remove_leftovers(entry.parent)
    temporary = make_temporary(entry)
    try:
        busy = f"{temporary}: another process is removing this folder; run the command again"
        with exclusive(temporary / LOCK_FILE, busy):
            digest = _write_entry(temporary, entry.name, source, config)
            if rejected and identify(entry) == rejected:
                set_aside(entry)
            try:
                os.replace(temporary, entry)
            except OSError:
                # Another process may have put the same bytes there first.
                if not identify(entry):
                    raise
                return
            integrity.sync(entry.parent)
            _verified.add(_verification_key(entry, digest))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_entry(folder: Path, name: str, source: Source, config: DataConfig) -> str:
    """Decodes all images of `source` and writes the files of the entry `name` into `folder`.

    Returns:
        The SHA-256 of the index.
    """
    listing = source.read()
    samples = listing.samples
    has_masks = any(sample.load_mask for sample in samples)
    images, masks = _create_arrays(folder, len(samples), has_masks, config)
    checksums, skipped, clipped, digests, sample_digests = _decode_all(samples, images, masks, config)
    index = {
        "entry": name,
        "images": integrity.describe_array(folder / IMAGES_FILE, images),
        "masks": None if masks is None else integrity.describe_array(folder / MASKS_FILE, masks),
        "parts": [sample.part for sample in samples],
        "kinds": [sample.kind for sample in samples],
        "names": [sample.name for sample in samples],
        "checksums": checksums,
        "mask_checksums": [] if masks is None else integrity.row_checksums(masks),
        "skipped": sorted(skipped),
        "clipped": sorted(clipped),
        "files": [
            asdict(replace(file, sha256=digests.get(file.name, file.sha256))) for file in listing.files
        ],
        "digests": sample_digests,
    }
    digest = integrity.write_index(folder / INDEX_FILE, index)
    # Everything is on the disk before the entry gets its name: a power cut then leaves a whole entry or none.
    for array in (images, masks):
        if array is not None:
            array.flush()
    for file in folder.iterdir():
        integrity.sync(file)
    integrity.sync(folder)
    return digest


def _create_arrays(
    folder: Path, count: int, has_masks: bool, config: DataConfig
) -> tuple[np.memmap, np.memmap | None]:
    """Creates the memory-mapped files of the images and, if there are any, of the masks.

    Raises:
        UserError: the disk has too little space.
    """
    size = (count, config.height, config.width)
    try:
        images = integrity.create_array(folder / IMAGES_FILE, (*size, config.channels), config.prepared_type)
        return images, integrity.create_array(folder / MASKS_FILE, size, np.uint8) if has_masks else None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        bytes_per_pixel = config.channels * np.dtype(config.prepared_type).itemsize + has_masks
        needed, free = int(np.prod(size)) * bytes_per_pixel, shutil.disk_usage(folder).free
        raise UserError(
            f"{folder.parent}: the image cache needs {needed / 1e6:.0f} MB, but the system does not give "
            f"them ({error.strerror}; {free / 1e6:.0f} MB are free); set config.data.cache_dir or "
            "DAAD_CACHE_DIR to a folder on a larger disk"
        ) from error


def _decode_all(
    samples: Sequence[Sample], images: np.ndarray, masks: np.ndarray | None, config: DataConfig
) -> tuple[list[int], list[tuple[int, str]], list[int], dict[str, str], list[str]]:
    """Decodes every sample into its row of `images` and `masks`.

    Returns:
        The checksums of all images; (index, reason) of every image that could not be read, and the index of
        every image with values outside the range, in any order; the SHA-256 of every file that was read, by
        name; and that of every image without a file, else "".

    Raises:
        UserError: see `load_decoded`.
    """
    checksums, sample_digests = [0] * len(samples), [""] * len(samples)
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
            checksums[index] = integrity.checksum(images[index])
            return 0
        digests.update(mask_digests | ({sample.file: digest} if sample.file else {}))
        sample_digests[index] = "" if sample.file else digest
        prepared = prepare(picture, config, sample.name)
        images[index], checksums[index] = prepared, integrity.checksum(prepared)
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
    return checksums, skipped, clipped, digests, sample_digests


def _require_same_size(mask: np.ndarray, picture: Picture, sample: Sample) -> None:
    """Raises UserError if a mask `[h, w]` has another size than its image."""
    rows, columns = picture_size(picture)
    if mask.shape != (rows, columns):
        raise UserError(
            f"{sample.name}: the mask has {mask.shape[0]} x {mask.shape[1]} pixels, but the image has "
            f"{rows} x {columns}; give a mask of the image's size"
        )
