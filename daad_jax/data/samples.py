"""What a source yields before any protocol: lazily decoded images with what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image. `load` decodes it to uint8 `[h, w, C]`, `load_mask` its mask to uint8 `[h, w]`."""

    name: str
    kind: str  # class name, or defect type (GOOD for normal ones)
    load: Callable[[], np.ndarray]
    load_mask: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Samples:
    """A data set as its source has it.

    `identity` changes whenever its pixels could have. `read` lists the training and the test
    images; a filled cache never asks.
    """

    identity: str
    read: Callable[[], tuple[list[Sample], list[Sample]]]


class Rows:
    """Chosen rows of a memory-mapped array `[M, ...]`, read from the disk when they are asked for."""

    def __init__(self, array: np.ndarray, indices: np.ndarray) -> None:
        self._array, self._indices = array, indices
        self.shape, self.dtype = (len(indices), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._array[self._indices[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class Split:
    """Images of one purpose.

    `images` uint8 `[N, H, W, C]` (an array, or `Rows` of one that may exceed the memory), `labels` `[N]`
    (0 normal, 1 anomalous), `kinds` and `names` of N entries, `masks` uint8 `[N, H, W]` of 0 and 1,
    or None where there are none.
    """

    images: Any
    labels: np.ndarray
    kinds: list[str]
    names: list[str]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """The examples at `indices`, with other `labels` (of those) where given."""
        return Split(
            self.images[indices],
            self.labels[indices] if labels is None else labels,
            [self.kinds[i] for i in indices],
            [self.names[i] for i in indices],
            None if self.masks is None else self.masks[indices],
        )


@dataclass(frozen=True)
class Splits:
    """What a run sees: normal images to train on, held-out normal ones, and the labelled test set."""

    train: Split
    calibration: Split
    test: Split
    notes: list[str]
