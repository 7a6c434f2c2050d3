"""Decoded images as one memory-mapped uint8 file, made once, safe to delete at any time."""

import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from daad_jax.config import DataConfig
from daad_jax.data.images import fit
from daad_jax.data.samples import Sample, Samples
from daad_jax.errors import UserError
from daad_jax.files import exclusive

VERSION = 2  # of the files below; another one decodes again
INDEX = "index.json"
FILLING, LOCK = ".filling-", ".lock"
JUST_MADE = 60  # seconds between making a lock and holding it, at most
AT_ONCE = 8  # images that a thread is handed
FEW_PIXELS = 128 * 128  # of an image: below, threads lose more by the interpreter's lock than they gain


@dataclass(frozen=True)
class Decoded:
    """A whole data set at the configuration's size, the first `train` of its N images to train on.

    `images` uint8 `[N, H, W, C]` and `masks` uint8 `[N, H, W]` of 0 and 1 (or None) are
    memory-mapped. `skipped` has (index, reason) of unreadable images, whose pixels are 0.
    """

    images: np.ndarray
    masks: np.ndarray | None
    train: int
    kinds: list[str]
    names: list[str]
    skipped: list[tuple[int, str]]


def decoded(source: Samples, config: DataConfig) -> Decoded:
    """All images of `source` from the cache, which is filled (or mended) first where it must be.

    Raises:
        UserError: an unreadable image where `config.on_bad_image` is "stop", an image of another
            size where `config.fit` is "exact", a mask of another size than its image, or a cache
            directory that cannot be written or is too full.
    """
    shape = (config.height, config.width, config.channels)
    key = repr((VERSION, source.identity, shape, config.fit, config.on_bad_image))
    root = config.cache_directory
    entry = root / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    found = _open(entry)
    if found is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _fill(entry, source, config)
        except OSError as error:
            raise UserError(
                f"{root}: cannot write the image cache ({error}); set config.data.cache_dir or "
                "DAAD_CACHE_DIR to a folder that can be written"
            ) from error
        found = _open(entry)
    if found is None:
        raise UserError(f"{entry}: the image cache was changed while it was read; run again")
    return found


def _open(entry: Path) -> Decoded | None:
    """What a filled entry holds; None where it is missing or damaged."""
    try:
        index = json.loads((entry / INDEX).read_text())
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        masks = None
        if index["masks"]:
            masks = np.load(entry / "masks.npy", mmap_mode="r", allow_pickle=False)
        skipped = [(int(i), str(reason)) for i, reason in index["skipped"]]
        found = Decoded(images, masks, index["train"], index["kinds"], index["names"], skipped)
    except (EOFError, OSError, ValueError, KeyError, TypeError):
        return None
    return found if len(images) == len(found.names) == len(found.kinds) else None


def _fill(entry: Path, source: Samples, config: DataConfig) -> None:
    """Decodes into a folder of its own, which appears whole or not at all."""
    _remove_leftovers(entry.parent)
    # Not mkdtemp's, which nobody else could read when it has its name.
    temporary = entry.with_name(f"{FILLING}{secrets.token_hex(8)}")
    temporary.mkdir()
    try:
        with exclusive(temporary / LOCK, f"{temporary}: being removed; run again"):
            _write(temporary, source, config)
            if entry.exists() and _open(entry) is None:
                shutil.rmtree(entry, ignore_errors=True)  # damaged
            try:
                os.replace(temporary, entry)
            except OSError:
                if _open(entry) is None:
                    raise
                # Another process was faster, with the same bytes.
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """What killed processes have left: as large as what they were to decode, and nobody's."""
    for folder in root.glob(f"{FILLING}*"):
        lock = folder / LOCK
        with suppress(OSError, UserError):  # gone, or being filled
            if time.time() - lock.stat().st_mtime > JUST_MADE:
                with exclusive(lock, "being filled") as known:
                    if known:
                        shutil.rmtree(folder)


def _write(folder: Path, source: Samples, config: DataConfig) -> None:
    train, test = source.read()
    samples = train + test
    size = (len(samples), config.height, config.width)
    masked = any(s.load_mask for s in samples)
    _need_space(folder, len(samples) * config.height * config.width * (config.channels + masked))
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*size, config.channels))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, size) if masked else None
    skipped: list[tuple[int, str]] = []

    def one(index: int) -> int:
        """Pixels of the image as it came."""
        sample = samples[index]
        try:
            image = sample.load()
            mask = sample.load_mask() if sample.load_mask else None
        except UserError as error:
            if config.on_bad_image == "stop":
                raise UserError(f"{error}, or set config.data.on_bad_image = 'skip'") from error
            skipped.append((index, str(error)))
            return 0
        images[index] = fit(image, config.height, config.width, config.fit, sample.name)
        if masks is not None and mask is not None:
            masks[index] = _fit_mask(mask, image, sample, config)
        return image.shape[0] * image.shape[1]

    def some(start: int) -> int:
        indices = range(start, min(start + AT_ONCE, len(samples)))
        for index in indices:
            one(index)
        return len(indices)

    with tqdm(total=len(samples), desc="decoding", unit="image", disable=not sys.stderr.isatty()) as bar:
        first = min(1, len(samples))
        small = bool(first) and one(0) < FEW_PIXELS
        bar.update(first)
        # Pillow decodes and scales without the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for count in (map if small else pool.map)(some, range(first, len(samples), AT_ONCE)):
                bar.update(count)
    images.flush()
    if masks is not None:
        masks.flush()
    index = {
        "train": len(train),
        "masks": masked,
        "kinds": [s.kind for s in samples],
        "names": [s.name for s in samples],
        "skipped": sorted(skipped),
    }
    (folder / INDEX).write_text(json.dumps(index))


def _fit_mask(mask: np.ndarray, image: np.ndarray, sample: Sample, config: DataConfig) -> np.ndarray:
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{sample.name}: its mask is {mask.shape[0]} x {mask.shape[1]} pixels, the image "
            f"{image.shape[0]} x {image.shape[1]}; give a mask of the image's size"
        )
    size = config.height, config.width
    return fit(mask[..., None], *size, config.fit, sample.name, nearest=True)[..., 0]


def _need_space(folder: Path, needed: int) -> None:
    # The files are mapped: writing to a full disk would kill the process, not raise.
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent}: the image cache needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are "
            "free; set config.data.cache_dir or DAAD_CACHE_DIR to a larger disk"
        )
