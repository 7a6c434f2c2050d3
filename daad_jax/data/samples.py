"""What a source of images offers, and the splits that a run makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.data.decoding import Picture

GOOD = "good"  # the kind of normal images, in sources that mark defects
# The parts of a source. Normal images of "train" train, or are held out by seed; those of "held_out" are held
# out as they are; "test" is tested, with all its labels.
TRAIN, HELD_OUT, TEST = "train", "held_out", "test"


@dataclass(frozen=True)
class Sample:
    """One image that is not decoded yet.

    Attributes:
        name: the name of the image; no other image of the source has the same name.
        part: `TRAIN`, `HELD_OUT` or `TEST`.
        kind: a class name, or the type of the defect (`GOOD`: no defect).
        load: decodes the image, and returns the picture and the SHA-256 (hexadecimal) of the encoded image.
        load_mask: decodes the mask to uint8 `[h, w]` of 0 and 1, and returns the mask and the SHA-256 of each
            mask file by its name; None if there is no mask.
        file: the name of the image's file, by which `FileRecord` knows it; "" if there is no such file.
    """

    name: str
    part: str
    kind: str
    load: Callable[[], tuple[Picture, str]]
    load_mask: Callable[[], tuple[np.ndarray, dict[str, str]]] | None = None
    file: str = ""


@dataclass(frozen=True)
class FileRecord:
    """What became of one file that was given.

    Attributes:
        name: the path below the folder of the data.
        role: what the file was taken for, for people: "training", "test good", "mask", ...
        images: how many images the file holds; 0 if the file is no image.
        reason: why the file is left out; "" if it is used.
        sha256: of the file, hexadecimal; "" as long as the file was not read.
    """

    name: str
    role: str
    images: int = 1
    reason: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Listing:
    """The samples of a source, in a fixed order, and a record of every file that was given."""

    samples: list[Sample]
    files: list[FileRecord]


@dataclass(frozen=True)
class Source:
    """A data set before any protocol.

    `identity` is a text that changes whenever the pixels, or the files that were given, could have changed.
    `read` lists the samples; it is not called if the decoded images are in the cache. The names of
    `FileRecord` are below `root`; it is None if the images have no files of their own.
    """

    identity: str
    read: Callable[[], Listing]
    root: Path | None = None


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
    a defect is; None if the source has no masks. `groups` `[N]` are equal integers for images that belong
    together; None if each image is for itself.
    """

    images: Any
    labels: np.ndarray
    kinds: list[str]
    names: list[str]
    masks: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def group_count(self) -> int:
        """How many groups the images are in; N if each image is for itself."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """The examples at `indices`, with `labels` (one for each of them) instead of their own if given."""
        return Split(
            self.images[indices],
            self.labels[indices] if labels is None else labels,
            [self.kinds[i] for i in indices],
            [self.names[i] for i in indices],
            None if self.masks is None else self.masks[indices],
            None if self.groups is None else self.groups[indices],
        )


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    `train` and `calibration` are normal images: to train on, and held out to calibrate. `test` is the
    labelled test set. `notes` are sentences for the user about how the images were read. `normal_digest` is a
    digest of the names, pixels and groups of all normal training images: which of them are held out depends
    on it.
    """

    train: Split
    calibration: Split
    test: Split
    notes: list[str]
    normal_digest: str
