"""Finds the range of a run: the pixel values that become 0 and 1, and the bits of prepared images.

The range is found once, from the normal training images. It then belongs to the run.
"""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import integrity, protocol
from daad_jax.data.decoding import Picture
from daad_jax.data.integrity import Damaged
from daad_jax.data.samples import Sample, Source
from daad_jax.files import replacing
from daad_jax.terminal import warn

CAMERA_BITS = (8, 10, 12, 14, 16)
SAMPLES_PER_TASK = 16  # a thread looks at this many before it reports
RECORDS, RECORD_FORMAT = (
    "ranges",
    2,
)  # the folder in the cache with what was found, and the format of its files
_warned: set[str] = set()  # types of pixels of which this process has warned
_lock = threading.Lock()
EXACT = 1e-3  # a share of an 8-bit level: larger than the error of float32, smaller than a 16-bit step
Limits = tuple[float, float]


def find_limits(config: DataConfig, pixel_type: str) -> Limits:
    """Returns the pixel values that become 0 and 1, for files of a type such as "uint8" or "float32"."""
    ranges = config.ranges
    return ranges.get(pixel_type) or ranges.get("") or full_range(pixel_type)


def full_range(pixel_type: str) -> Limits:
    """Returns the smallest and the largest value of an integer type; 0 and 1 for floats."""
    if pixel_type == "float32":
        return 0.0, 1.0
    return float(np.iinfo(pixel_type).min), float(np.iinfo(pixel_type).max)


def to_unit(pixels: np.ndarray, config: DataConfig) -> np.ndarray:
    """Scales pixel values to float32 in [0, 1] by the range of their type. Clips values outside the range."""
    low, high = find_limits(config, str(pixels.dtype))
    exact: type[np.floating] = (
        np.float64 if pixels.dtype.itemsize == 4 and pixels.dtype.kind != "f" else np.float32
    )
    unit = pixels.astype(exact)
    unit -= exact(low)
    unit /= exact(high - low)
    return np.clip(unit, 0, 1, out=unit).astype(np.float32, copy=False)


def to_levels(unit: np.ndarray) -> np.ndarray:
    """Converts float32 in [0, 1] to uint8. Rounds down, as the division of 16-bit values by 257 does."""
    return np.floor(255 * unit + np.float32(EXACT)).astype(np.uint8)


def exceeds_range(picture: Picture, config: DataConfig) -> bool:
    """Whether a picture has values outside the range, which are clipped."""
    if not isinstance(picture, np.ndarray):
        low, high = find_limits(config, "uint8")
        if low <= 0 and high >= 255:
            return False
        extremes = np.ravel(picture.convert("RGB").getextrema())
        return bool(extremes.min() < low or extremes.max() > high)
    low, high = find_limits(config, str(picture.dtype))
    if (low, high) == full_range(str(picture.dtype)) and picture.dtype.kind != "f":
        return False
    return bool(picture.min() < low or picture.max() > high)


def warn_of_new_type(picture: Picture, config: DataConfig, name: str) -> None:
    """Prints a warning if a picture has integers of a type that no training image had, once for each type.

    Such a type has no range of its own in the run. If its pixels use fewer bits than the type has, they are
    nearly black.

    Args:
        picture: a picture.
        config: the configuration of the run; one whose range is still open (`auto`) knows no types.
        name: the image's name in the warning.
    """
    if not isinstance(picture, np.ndarray) or picture.dtype.kind == "f" or config.range == "auto":
        return
    pixel_type, ranges = str(picture.dtype), config.ranges
    if pixel_type == "uint8" or pixel_type in ranges or "" in ranges:
        return
    with _lock:
        is_new = pixel_type not in _warned
        _warned.add(pixel_type)
    if is_new:
        limits = _text(full_range(pixel_type)).replace(",", "..")
        warn(
            f"{name}: its pixels are {pixel_type}, as in no training image, so {limits} become 0..1; if they "
            f"use fewer bits, train with such images or with config.data.range='{pixel_type}:LOW,HIGH'"
        )


@dataclass
class Found:
    """Counts the training images of each type, and has the extremes of each type except uint8."""

    counts: Counter[str]
    extremes: dict[str, Limits]

    def add(self, picture: Picture) -> None:
        """Counts one more picture."""
        pixel_type = str(picture.dtype) if isinstance(picture, np.ndarray) else "uint8"
        self.counts[pixel_type] += 1
        if isinstance(picture, np.ndarray):
            self.widen(pixel_type, (float(picture.min()), float(picture.max())))

    def widen(self, pixel_type: str, limits: Limits) -> None:
        """Takes further extremes of a type into account."""
        low, high = self.extremes.get(pixel_type, limits)
        self.extremes[pixel_type] = min(low, limits[0]), max(high, limits[1])


def resolve(
    source: Source, config: DataConfig, classes: tuple[str, ...], again: bool = False
) -> tuple[DataConfig, list[str]]:
    """Finds the range and the bits of a run in its training images, if `config` leaves them open.

    Only normal training images count, including held-out ones. The cache keeps the result, so that a source
    is searched only once.

    Args:
        source: the source of the images.
        config: the configuration, as the user wrote it or already resolved.
        classes: the classes of the source, see `protocol.labels`.
        again: whether to search the source even if the cache has a result.

    Returns:
        The configuration whose range and bits hold for the run, and sentences for the user.
    """
    if config.bits and config.range != "auto":
        return config, describe(config, None)
    key = (
        RECORD_FORMAT,
        source.identity,
        config.range,
        config.bits,
        config.max_pixels,
        config.protocol,
        config.normal_class,
    )
    digest = hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    record = config.cache_directory / RECORDS / f"{digest}.json"
    found = None if again else _read_record(record)
    if found is None or (config.range == "auto" and set(found.counts) - {"uint8"} - set(found.extremes)):
        found = search(source.read().samples, config, classes)
        with suppress(OSError):  # if the cache cannot be written, its filling reports the error
            record.parent.mkdir(parents=True, exist_ok=True)
            with replacing(record) as temporary:
                integrity.write_index(temporary, {"counts": found.counts, "extremes": found.extremes})
    resolved = decide(found, config)
    return resolved, describe(resolved, found)


def search(samples: Sequence[Sample], config: DataConfig, classes: tuple[str, ...]) -> Found:
    """Reads the headers of all normal training images, and decodes those that have more than 8 bits.

    Images that cannot be read are passed over, because the filling of the cache reports them.
    """
    normal = protocol.normal_samples(samples, classes, config)
    needs_extremes = config.range == "auto"

    def look(sample: Sample) -> tuple[str, Limits | None]:
        try:
            pixel_type = sample.pixel_type() if sample.pixel_type else None
            if pixel_type == "uint8" or (pixel_type and not needs_extremes):
                return pixel_type, None
            picture = sample.load()[0]
        except Exception:  # damaged files cause many kinds of errors
            return "", None
        if not isinstance(picture, np.ndarray):
            return "uint8", None
        return str(picture.dtype), (float(picture.min()), float(picture.max()))

    found = Found(Counter(), {})
    tasks = [normal[i : i + SAMPLES_PER_TASK] for i in range(0, len(normal), SAMPLES_PER_TASK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for looks in pool.map(lambda task: [look(sample) for sample in task], tasks):
            for pixel_type, limits in looks:
                if pixel_type:
                    found.counts[pixel_type] += 1
                if limits:
                    found.widen(pixel_type, limits)
    return found


def decide(found: Found, config: DataConfig) -> DataConfig:
    """Returns the configuration with the range and the bits that follow from `found`."""
    deep = sorted(set(found.counts) - {"uint8"})
    chosen = config.range
    if config.range in ("auto", "type"):
        rule: Callable[[str], Limits] = full_range
        if config.range == "auto":
            rule = lambda pixel_type: camera_range(pixel_type, *found.extremes[pixel_type])  # noqa: E731
        chosen = ";".join(f"{pixel_type}:{_text(rule(pixel_type))}" for pixel_type in deep) or "type"
    resolved = replace(config, range=chosen)
    is_narrow = all(find_limits(resolved, pixel_type) == (0, 255) for pixel_type in deep)
    return replace(resolved, bits=config.bits or (8 if is_narrow else 16))


def camera_range(pixel_type: str, low: float, high: float) -> Limits:
    """Guesses the range of a camera whose values go from `low` to `high`.

    For integers from 0 on, the range has 8, 10, 12, 14 or 16 bits, the fewest that hold all values. For
    floats between 0 and 1, it is 0 to 1. Otherwise it is `low` to `high`.
    """
    if pixel_type == "float32":
        if low >= 0 and high <= 1:
            return 0.0, 1.0
    elif low >= 0 and high < 2 ** CAMERA_BITS[-1]:
        return 0.0, float(2 ** next(bits for bits in CAMERA_BITS if high < 2**bits) - 1)
    return (low, high) if low < high else (low, low + 1)


def describe(config: DataConfig, found: Found | None) -> list[str]:
    """Makes sentences about the range of a run; [] if all images have 8 bits and use their full range."""
    notes = []
    for pixel_type, limits in config.ranges.items():
        what = f"Pixel values of {pixel_type or 'all'} files"
        if found and pixel_type in found.extremes and pixel_type != "float32":
            bits = int(limits[1]).bit_length()
            if limits == (0, 2**bits - 1):
                what = f"The training images have {bits} of {np.iinfo(pixel_type).bits} bits: pixel values"
        elif found and pixel_type in found.extremes:
            what = "The training images are floats: pixel values"
        notes.append(f"{what} {_text(limits).replace(',', '..')} become 0..1 (config.data.range).")
    counts = found.counts if found else {}
    if len(counts) > 1:
        kinds = ", ".join(f"{count} of {pixel_type}" for pixel_type, count in sorted(counts.items()))
        notes.append(f"The training images are of several types ({kinds}); each goes by its own range.")
    return notes


def clipping_note(count: int, first: str, config: DataConfig) -> str:
    """Makes the sentence about images with values outside the range of the run."""
    ranges = [
        f"{name}{':' if name else ''}{_text(v).replace(',', '..')}" for name, v in config.ranges.items()
    ]
    shown = ", ".join(ranges) or "the full range of their type (0..1 for floats)"
    images = "1 image has" if count == 1 else f"{count} images have"
    return (
        f"{images} pixel values outside {shown}, which were clipped ({first}{', ...' if count > 1 else ''})."
    )


def _text(limits: Limits) -> str:
    """Writes both limits; whole numbers get no decimal point. `DataConfig.ranges` reads the text back."""
    return ",".join(
        str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value) for value in limits
    )


def _read_record(record: Path) -> Found | None:
    """Returns the result in the cache; None if there is none. Warns of a damaged one."""
    if not record.exists():
        return None
    try:
        tree, _ = integrity.read_index(record)
        counts = Counter({str(name): int(count) for name, count in tree["counts"].items()})
        extremes = {str(name): (float(low), float(high)) for name, (low, high) in tree["extremes"].items()}
    except (Damaged, ValueError, KeyError, TypeError, AttributeError):
        warn(f"{record}: this part of the image cache is damaged; the range of the pixels is searched again")
        return None
    return Found(counts, extremes)
