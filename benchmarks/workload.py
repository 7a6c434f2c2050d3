"""What is measured, for every engine: a configuration, images, and the time of a call."""

import time
from collections.abc import Callable

import numpy as np

from daad_jax.config import Config


def configuration(size: int, width: int, items: int) -> Config:
    config = Config()
    config.data.height = config.data.width = size
    config.model.base_width = config.model.discriminator_width = width
    config.model.max_width = 8 * width
    config.model.memory_items = (items,) * 4
    return config


def images(count: int, size: int) -> np.ndarray:
    """uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
