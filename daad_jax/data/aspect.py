"""Finds the size of a run with `config.data.fit` = "aspect" from the shape of its training images."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import protocol
from daad_jax.data.decoding import picture_size
from daad_jax.data.samples import Sample, Source

SAMPLED_IMAGES = 32  # this many images suffice to find the usual shape
MAX_ASPECT = 3  # the largest quotient of the longer and the shorter side; it bounds the work
UNIT = 32  # pixels: the frozen networks halve an image five times


def resolve(source: Source, config: DataConfig, classes: tuple[str, ...]) -> tuple[DataConfig, list[str]]:
    """Finds the height and the width of the run, if `config.fit` leaves them open.

    Args:
        source: the source of the images.
        config: the configuration, as the user wrote it or already resolved.
        classes: the classes of the source, see `protocol.labels`.

    Returns:
        The configuration whose height and width hold for the run, and sentences for the user.
    """
    if not follows_images(config):
        return decide([], config)
    samples = protocol.normal_samples(source.read().samples, classes, config)
    every = -(-len(samples) // SAMPLED_IMAGES) if samples else 1
    return decide(find_sizes(samples[::every]), config)


def follows_images(config: DataConfig) -> bool:
    """True if the size of the run depends on the shape of its images. Tiles are squares."""
    return config.fit == "aspect" and not config.tiles


def find_sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Returns the heights and widths of upright images in pixels, without unreadable images.

    The filling of the cache reports unreadable images.
    """

    def find_size(sample: Sample) -> tuple[int, int] | None:
        try:
            return picture_size(sample.load()[0])
        except Exception:  # damaged files cause many kinds of errors
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [size for size in pool.map(find_size, samples) if size]


def decide(sizes: Sequence[tuple[int, int]], config: DataConfig) -> tuple[DataConfig, list[str]]:
    """Finds the size whose shorter side is `config.height`, with the median aspect of some images.

    Args:
        sizes: (height, width) of each image in pixels; without any, the size is a square.
        config: if its `fit` is "aspect", its `height` and `width` are equal; otherwise it stays as it is.

    Returns:
        The configuration with `fit` = "resize" and the size that was found, and a sentence about it if the
        size is no square.
    """
    if config.fit != "aspect":
        return config, []
    side = config.height
    ratio = float(np.median([width / height for height, width in sizes])) if sizes else 1.0
    longer = max(side, round(min(max(ratio, 1 / ratio), MAX_ASPECT) * side / UNIT) * UNIT)
    height, width = (side, longer) if ratio >= 1 else (longer, side)
    resolved = replace(config, height=height, width=width, fit="resize")
    if longer == side:
        return resolved, []
    shape = f"{ratio:.2f} times as wide as high" if ratio > 1 else f"{1 / ratio:.2f} times as high as wide"
    return resolved, [
        f"The training images are usually {shape}, so the model reads {height} x {width} pixels "
        "(config.data.fit = 'aspect')."
    ]
