"""Gathers images that come one by one into batches."""

from collections.abc import Iterable, Iterator

import numpy as np


def batch_images(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields batches `[b, H, W, C]` of images `[H, W, C]`: b is `size`; the last batch may be smaller."""
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
