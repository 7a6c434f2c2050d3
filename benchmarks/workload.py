"""What every benchmark shares: a configuration, images, and the time of a call."""

import time
from collections.abc import Callable

import numpy as np

from daad_jax.config import Config


def make_config(size: int, width: int, items: int) -> Config:
    """A DAAD+ configuration for images of `size` pixels, with `items` items in each memory."""
    config = Config()
    config.data.height = config.data.width = size
    config.model.base_width = config.model.discriminator_width = width
    config.model.max_width = 8 * width
    config.model.memory_items = (items,) * 4
    return config


def make_images(count: int, size: int) -> np.ndarray:
    """Random images, uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def time_call(run: Callable[[], object]) -> float:
    """Calls `run` and returns the seconds that the call took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
