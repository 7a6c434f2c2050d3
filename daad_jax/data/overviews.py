"""Whole images at the size of the model, also if a split has them in tiles."""

from typing import Any

import numpy as np

from daad_jax.data.images import scale_floats
from daad_jax.data.samples import Split


def overviews(split: Split) -> Any:
    """The N images of a split, each as a whole: `[N, H, W, C]` (anything that slices into arrays)."""
    return _Overviews(split) if split.tiling else split.images


class _Overviews:
    """Images in tiles, joined and scaled when they are asked for: slices into float32 `[n, H, W, C]`."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self.shape, self.dtype = (len(split), *split.images.shape[1:]), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, key: Any) -> np.ndarray:
        chosen = np.arange(len(self))[key]
        if chosen.ndim == 0:
            return self._scale(int(chosen))
        return np.stack([self._scale(index) for index in chosen.tolist()])

    def _scale(self, index: int) -> np.ndarray:
        return scale_floats(self._split.picture(index).astype(np.float32), *self.shape[1:3])
