"""Keeps decoded images in one memory-mapped file of 8 or 16 bits. You may delete the cache at any time."""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import integrity
from daad_jax.data.entry_folders import identify, make_temporary, remove_leftovers, set_aside
from daad_jax.data.entry_writer import IMAGES_FILE, INDEX_FILE, MASKS_FILE, write_entry
from daad_jax.data.integrity import Damaged
from daad_jax.data.samples import FileRecord, Source
from daad_jax.data.tiles import TileGrid, Tiling
from daad_jax.errors import UserError
from daad_jax.files import LOCK_FILE, exclusive
from daad_jax.terminal import warn

FORMAT = 8  # of the files in an entry; entries of another format are not used
_verified: set[tuple[str, ...]] = set()  # entries whose checksums this process has computed


@dataclass(frozen=True)
class Decoded:
    """All N images of a data set at the configured size.

    Attributes:
        images: uint8 or uint16 `[N, H, W, C]`, memory-mapped.
        masks: uint8 `[N, H, W]` of 0 and 1, memory-mapped; None if the source has no masks.
        parts: the part of each image.
        kinds: the kind of each image.
        names: the name of each image.
        checksums: the CRC-32 of each image's pixels.
        skipped: (index, reason) of each image that could not be read. The pixels of such an image are 0.
        clipped: the indices of the images with values outside the range of the run.
        files: the record of every file.
        digests: the SHA-256 of each encoded image without a file; "" if the image has a file.
        sizes: rows and columns of each image in its file, (0, 0) if it could not be read; empty if an earlier
            version made the entry.
        tiling: says which rows of `images` and `masks` are tiles of which image; None without tiles. An image
            that could not be read has no tile.
        grey: the indices of the images with a single channel.
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
    sizes: list[tuple[int, int]] = field(default_factory=list)
    tiling: Tiling | None = None
    grey: list[int] = field(default_factory=list)


def load_decoded(source: Source, config: DataConfig, check: bool = False) -> Decoded:
    """Opens the decoded images of `source` in the cache; decodes them first if they are missing or damaged.

    Checksums are compared when this process first uses an entry. A damaged entry is replaced as a whole, so
    other processes can go on using the old files.

    Args:
        source: the source.
        config: has size and channels, and the folder of the cache.
        check: whether all files of the source are read again, to find a change that left name, size and times
            as they were. After such a change all images are decoded again.

    Raises:
        UserError: an image cannot be read and `config.on_bad_image` is "stop", an image has another size
            and `config.fit` is "exact", a mask has another size than its image, or the cache directory
            cannot be written or is too full.
    """
    # Find the folder of the entry: its name depends on all values that change a pixel.
    shape = (config.height, config.width, config.channels)
    levels = (config.range, config.bits, config.max_pixels)
    tiles = (config.tiles,) * bool(config.tiles)
    key = repr((FORMAT, source.identity, shape, levels, config.fit, config.on_bad_image, *tiles))
    root = config.cache_directory
    entry = root / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    # Open the entry, and look for changed files if the user wants to.
    decoded, rejected = _open_sound(entry)
    if decoded and check:
        sha256_of_files = {file.name: file.sha256 for file in decoded.files}
        if changed := integrity.find_changed(source, sha256_of_files, decoded.digests):
            warn(
                f"{changed} has changed, but its name, size and times have not; all images are decoded again"
            )
            decoded, rejected = None, identify(entry)
    # Decode all images if there is no sound entry.
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
    """Opens an entry if it is filled and not damaged. Prints a line if it is damaged.

    Returns:
        The decoded images or None; and the result of `identify` for a damaged entry, else ().
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
        Damaged: a file is missing or has changed.
    """
    index, digest = integrity.read_index(entry / INDEX_FILE)
    try:
        checksums, mask_checksums = index["checksums"], index["mask_checksums"]
        images = integrity.open_array(entry / IMAGES_FILE, *index["images"])
        masks = integrity.open_array(entry / MASKS_FILE, *index["masks"]) if index["masks"] else None
        skipped = [(int(i), str(reason)) for i, reason in index["skipped"]]
        lists = index["parts"], index["kinds"], index["names"], checksums
        clipped, grey = ([int(i) for i in index[key]] for key in ("clipped", "grey"))
        files = [FileRecord(**record) for record in index["files"]]
        sizes = [(int(rows), int(columns)) for rows, columns in index.get("sizes", [])]
        tiling, tiles = None, index.get("tiles")
        if tiles:
            tiling = _read_tiling(tiles, sizes, images)
        row_checksums = tiles["row_checksums"] if tiles else checksums
        decoded = Decoded(
            images, masks, *lists, skipped, clipped, files, index["digests"], sizes, tiling, grey
        )
        if {len(entries) for entries in lists} != {len(tiling.grids) if tiling else len(images)}:
            raise ValueError("lists of different lengths")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{INDEX_FILE} is the index of something else") from error
    if index.get("entry") != entry.name:
        raise Damaged(f"the entry belongs to the images of {index.get('entry')}")
    # Compare the checksums of all rows, once in each process.
    key = _verification_key(entry, digest)
    if key not in _verified:
        integrity.verify_rows(entry / IMAGES_FILE, images, row_checksums)
        if masks is not None:
            integrity.verify_rows(entry / MASKS_FILE, masks, mask_checksums)
        _verified.add(key)
    return decoded


def _read_tiling(tiles: dict[str, Any], sizes: list[tuple[int, int]], images: np.ndarray) -> Tiling:
    """Makes the tiling of an index. Raises ValueError if it does not fit `images` `[T, H, W, C]`."""
    model_size = (images.shape[1], images.shape[2])
    grids = [TileGrid(size, int(tiles["side"]), model_size) for size in sizes]
    tiling = Tiling(grids, np.array(tiles["first_rows"], np.int64))
    if len(grids) != len(tiling.first_rows) or sum(grid.count for grid in grids) != len(images):
        raise ValueError("another number of tiles")
    return tiling


def _verification_key(entry: Path, digest: str) -> tuple[str, ...]:
    """Returns texts that change if an entry is replaced, or if its files are written."""
    files = [file for name in (IMAGES_FILE, MASKS_FILE) if (file := entry / name).exists()]
    stamps = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in map(Path.stat, files)]
    return str(entry), digest, str(stamps)


def _fill_entry(entry: Path, source: Source, config: DataConfig, rejected: tuple[int, ...]) -> None:
    """Decodes into a temporary folder and renames it, so an entry appears whole or not at all.

    Args:
        entry: the folder to make.
        source: the source.
        config: see `load_decoded`.
        rejected: the result of `identify` for an entry that must be replaced, else ().
    """
    remove_leftovers(entry.parent)
    temporary = make_temporary(entry)
    try:
        busy = f"{temporary}: another process is removing this folder; run the command again"
        with exclusive(temporary / LOCK_FILE, busy):
            digest = write_entry(temporary, entry.name, source, config)
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
