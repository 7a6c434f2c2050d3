"""Decoded images as one memory-mapped uint8 file, made once, safe to delete at any time."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from daad_jax.config import DataConfig
from daad_jax.data.images import fit
from daad_jax.data.samples import Sample
from daad_jax.errors import UserError

VERSION = 1


def directory(config: DataConfig) -> Path:
    chosen = config.cache_dir or os.environ.get("DAAD_CACHE_DIR") or "~/.cache/daad_jax"
    return Path(chosen).expanduser()


def decoded(
    samples: list[Sample], identity: str, config: DataConfig
) -> tuple[np.ndarray, np.ndarray | None, list[tuple[int, str]]]:
    """All samples at the configuration's size.

    Returns:
        Images uint8 `[N, H, W, C]` and masks uint8 `[N, H, W]` or None, both memory-mapped, and
        (index, reason) of what was skipped as unreadable (its pixels are 0).

    Raises:
        UserError: an unreadable image where `config.on_bad_image` is "stop", an image of another
            size where `config.fit` is "exact", or a cache directory that cannot be written.
    """
    shape = (config.height, config.width, config.channels)
    key = repr((VERSION, identity, shape, config.fit, config.on_bad_image))
    root = directory(config)
    entry = root / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (entry / "skipped.json").is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _fill(entry, samples, config)
        except OSError as error:
            raise UserError(
                f"{root}: cannot write the image cache ({error}); set config.data.cache_dir or "
                "DAAD_CACHE_DIR to a folder that can be written"
            ) from error
    images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    masks = entry / "masks.npy"
    return (
        images,
        np.load(masks, mmap_mode="r", allow_pickle=False) if masks.is_file() else None,
        [(index, reason) for index, reason in json.loads((entry / "skipped.json").read_text())],
    )


def _fill(entry: Path, samples: list[Sample], config: DataConfig) -> None:
    """Decodes into a folder of its own, which appears whole or not at all."""
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".filling-"))
    try:
        _write(temporary, samples, config)
        try:
            os.replace(temporary, entry)
        except OSError:
            if not (entry / "skipped.json").is_file():
                raise
            # Another process was faster, with the same bytes.
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, samples: list[Sample], config: DataConfig) -> None:
    size = (len(samples), config.height, config.width)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*size, config.channels))
    masks = None
    if any(s.load_mask for s in samples):
        masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, size)
    skipped: list[tuple[int, str]] = []

    def one(index: int) -> None:
        sample = samples[index]
        try:
            image = to_channels(sample.load(), config.channels)
        except UserError as error:
            if config.on_bad_image == "stop":
                raise
            skipped.append((index, str(error)))
            return
        images[index] = fit(image, config.height, config.width, config.fit, sample.name)
        if masks is not None and sample.load_mask:
            mask = 255 * sample.load_mask()[..., None]
            fitted = fit(mask, config.height, config.width, config.fit, sample.name)
            masks[index] = fitted[..., 0] > 127

    # Pillow decodes and scales without the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        done = tqdm(
            pool.map(one, range(len(samples))),
            total=len(samples),
            desc="decoding",
            unit="image",
            disable=not sys.stderr.isatty(),
        )
        for _ in done:
            pass
    images.flush()
    if masks is not None:
        masks.flush()
    (folder / "skipped.json").write_text(json.dumps(sorted(skipped)))


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 `[h, w, 1 or 3]` -> `[h, w, channels]`; grey is ITU-R 601 luma."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(luma).astype(np.uint8)[..., None]
