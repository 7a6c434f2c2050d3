"""Joins several splits to one without copying their images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from daad_jax.data.samples import Split
from daad_jax.data.tiles import Tiling


class JoinedRows:
    """The rows of several arrays `[M, ...]`, one array after the other; a slice reads what it needs."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._arrays = list(arrays)
        self._starts = np.cumsum([0, *map(len, self._arrays)])
        self.shape = (int(self._starts[-1]), *self._arrays[0].shape[1:])
        self.dtype = self._arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice) -> np.ndarray:
        first, last, _ = key.indices(len(self))
        parts = [
            np.asarray(array[max(0, first - start) : max(0, last - start)])
            for array, start in zip(self._arrays, self._starts)
        ]
        return np.concatenate(parts)


def join_splits(splits: Sequence[Split], groups: np.ndarray | None) -> Split:
    """Joins splits of images of one size and type, without their masks.

    Args:
        splits: at least one split.
        groups: equal integers for images that belong together, over all splits; None if each is for itself.
    """
    tilings = [split.tiling for split in splits if split.tiling]
    return Split(
        images=JoinedRows([split.images for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
        kinds=[kind for split in splits for kind in split.kinds],
        names=[name for split in splits for name in split.names],
        groups=groups,
        tiling=Tiling.in_order([grid for tiling in tilings for grid in tiling.grids]) if tilings else None,
    )
