"""Batches of images that come one by one."""

from collections.abc import Iterable, Iterator

import numpy as np


def batch_images(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields `[b, H, W, C]` from images `[H, W, C]`: b is `size`, and less for the last batch."""
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
