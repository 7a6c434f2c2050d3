"""What a source of images offers, and the splits that a run makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

GOOD = "good"  # the kind of normal images, in sources that mark defects


@dataclass(frozen=True)
class Sample:
    """One image that is not decoded yet.

    `load` decodes the image to uint8 `[h, w, C]`, and `load_mask` its mask to uint8 `[h, w]` of 0 and 1
    (None if there is no mask). `kind` is a class name, or the type of the defect (`GOOD`: no defect).
    """

    name: str
    kind: str
    load: Callable[[], np.ndarray]
    load_mask: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Source:
    """A data set before any protocol.

    `identity` is a text that changes whenever the pixels could have changed. `read` lists the samples for
    training and those for testing; it is not called if the decoded images are in the cache.
    """

    identity: str
    read: Callable[[], tuple[list[Sample], list[Sample]]]


class Rows:
    """The rows `indices` of a memory-mapped array `[M, ...]`; an index or slice reads rows from the disk."""

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
    """N images that serve one purpose, with their labels.

    `images` uint8 `[N, H, W, C]` are an array, or `Rows` if they may exceed the memory. `labels` `[N]` are
    0 (normal) or 1 (anomalous). `kinds` and `names` have N entries. `masks` uint8 `[N, H, W]` are 1 where
    a defect is; None if the source has no masks.
    """

    images: Any
    labels: np.ndarray
    kinds: list[str]
    names: list[str]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """The examples at `indices`, with `labels` (one for each of them) instead of their own if given."""
        return Split(
            self.images[indices],
            self.labels[indices] if labels is None else labels,
            [self.kinds[i] for i in indices],
            [self.names[i] for i in indices],
            None if self.masks is None else self.masks[indices],
        )


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    `train` and `calibration` are normal images: to train on, and held out to calibrate. `test` is the
    labelled test set. `notes` are sentences for the user about how the images were read. `normal_digest` is a
    digest of the names and pixels of all normal training images: which of them are held out depends on it.
    """

    train: Split
    calibration: Split
    test: Split
    notes: list[str]
    normal_digest: str
