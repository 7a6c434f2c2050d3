"""Makes small whole images of a split, even if the split has tiles."""

import functools
from typing import Any

import numpy as np

from daad_jax.data.images import scale_floats
from daad_jax.data.samples import Split

MAX_SIDE = 128  # of images in tiles
MAX_REMEMBERED = 1024  # images


def overviews(split: Split) -> Any:
    """Returns the N whole images of a split, `[N, h, w, C]`: an array, or an object that slices into arrays.

    All images have the same size: the size of the model, or a smaller size if the split has tiles.
    """
    return _Overviews(split) if split.tiling else split.images


class _Overviews:
    """Joins and scales images in tiles when a slice takes them: slices into `[n, h, w, C]`."""

    def __init__(self, split: Split) -> None:
        self._split = split
        height, width, channels = split.images.shape[1:]
        self.shape = (len(split), min(height, MAX_SIDE), min(width, MAX_SIDE), channels)
        self.dtype = split.images.dtype
        # The tiles of a large image take long to read.
        self._scale = functools.lru_cache(MAX_REMEMBERED)(self._join_and_scale)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, key: Any) -> np.ndarray:
        chosen = np.arange(len(self))[key]
        if chosen.ndim == 0:
            return self._scale(int(chosen))
        return np.stack([self._scale(index) for index in chosen.tolist()])

    def _join_and_scale(self, index: int) -> np.ndarray:
        scaled = scale_floats(self._split.picture(index).astype(np.float32), *self.shape[1:3])
        return np.rint(scaled).astype(self.dtype)
