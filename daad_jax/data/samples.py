"""Defines the samples that a source of images offers, and the splits that a run makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture
from daad_jax.data.tiles import TileGrid, Tiling

GOOD = "good"  # the kind of normal images, in sources that mark defects
# The parts of a source. Normal images of `TRAIN` train, or are held out by seed. All normal images of
# `HELD_OUT` are held out, and all images of `TEST` are tested.
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
        pixel_type: reads the NumPy type of the decoded pixels ("uint8", "uint16", ...) from the header of the
            file, and may raise any error for a damaged file. None: only decoding gives the type.
    """

    name: str
    part: str
    kind: str
    load: Callable[[], tuple[Picture, str]]
    load_mask: Callable[[], tuple[np.ndarray, dict[str, str]]] | None = None
    file: str = ""
    pixel_type: Callable[[], str] | None = None


@dataclass(frozen=True)
class FileRecord:
    """The record of one file of the data.

    Attributes:
        name: the path below the folder of the data.
        role: the role of the file, see `account.ROLES`.
        images: how many images the file holds; 0 if the file is no image.
        masks: how many mask files belong to the image.
        reason: why the file is left out; "" if it is used.
        sha256: the SHA-256 of the file, hexadecimal; "" if the file was not read yet.
    """

    name: str
    role: str
    images: int = 1
    masks: int = 0
    reason: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Listing:
    """The samples of a source, in a fixed order, and a record of every file."""

    samples: list[Sample]
    files: list[FileRecord]


@dataclass(frozen=True)
class Source:
    """A data set before any protocol is applied.

    Attributes:
        identity: a text that changes whenever the pixels or the files could have changed.
        read: lists the samples. It is not called if the decoded images are in the cache.
        root: the folder of the files in the listing; None if there are no such files.
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

    def take(self, indices: np.ndarray) -> "Rows":
        """Returns some of the rows, without reading them."""
        return Rows(self._array, self._indices[indices])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class Split:
    """N images that serve one purpose, with their labels.

    `images` uint8 or uint16 `[N, H, W, C]` are an array, or `Rows` if they may exceed the memory. `labels`
    `[N]` are 0 (normal) or 1 (anomalous). `kinds` and `names` have N entries. `masks` uint8 `[N, H, W]` are 1
    where a defect is; None if the source has no masks. `groups` `[N]` are equal integers for images that
    belong together; None if each image is for itself.

    If `tiling` is set, `images` `[T, H, W, C]` and `masks` `[T, H, W]` have a row for each tile, image after
    image. Everything else is about the N images.
    """

    images: Any
    labels: np.ndarray
    kinds: list[str]
    names: list[str]
    masks: np.ndarray | None = None
    groups: np.ndarray | None = None
    tiling: Tiling | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(
        cls, images: np.ndarray, labels: np.ndarray | None = None, names: list[str] | None = None
    ) -> "Split":
        """Makes a split of images in memory, for `train(config, workdir, data=Splits(...))`.

        Args:
            images: uint8 `[N, H, W, C]`, at the size and with the channels of the model.
            labels: 0 (normal) or 1 (anomalous), `[N]`; None: all are normal.
            names: a name for each image; None: "image 0", "image 1", ...
        """
        labels = np.zeros(len(images), np.int8) if labels is None else np.asarray(labels, np.int8)
        kinds = [GOOD if label == 0 else "anomalous" for label in labels]
        return cls(images, labels, kinds, names or [f"image {i}" for i in range(len(images))])

    @property
    def group_count(self) -> int:
        """The number of groups; N if each image is for itself."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    @property
    def grids(self) -> Sequence[TileGrid] | None:
        """The tiles of each image; None if the images are not cut into tiles."""
        return self.tiling.grids if self.tiling else None

    @property
    def owners(self) -> np.ndarray:
        """The image of each row of `images`: int `[T]`, or 0, 1, ... without tiles."""
        return self.tiling.owners if self.tiling else np.arange(len(self))

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Returns the largest value of each image, given a value for each row of `images`: `[T]` -> `[N]`."""
        return np.maximum.reduceat(values, self.tiling.first_rows) if self.tiling else values

    def is_marked(self) -> np.ndarray:
        """Says which images have a mask with at least one marked pixel: bool `[N]`."""
        if self.masks is None:
            return np.zeros(len(self), bool)
        return self.largest(np.asarray(self.masks.any(axis=(1, 2))))

    def picture(self, index: int) -> np.ndarray:
        """Returns a whole image, `[H, W, C]`; with tiles `[*joined_size, C]`, see `TileGrid`."""
        return self._join(self.images, index)

    def mask(self, index: int) -> np.ndarray:
        """Returns the mask of a whole image, uint8 in the size of `picture`. The split must have masks."""
        return self._join(self.masks, index)

    def _join(self, rows: Any, index: int) -> np.ndarray:
        if not self.tiling:
            return np.asarray(rows[index])
        joiner = self.tiling.grids[index].paste()
        for tile in rows[self.tiling.rows_of([index])]:
            joiner.add(tile)
        return joiner.finish()

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """Returns the split of the images at `indices`; `labels`, if given, replace their labels."""
        rows = self.tiling.rows_of(indices) if self.tiling else indices
        return Split(
            self.images.take(rows) if isinstance(self.images, Rows) else self.images[rows],
            self.labels[indices] if labels is None else labels,
            [self.kinds[i] for i in indices],
            [self.names[i] for i in indices],
            None if self.masks is None else self.masks[rows],
            None if self.groups is None else self.groups[indices],
            self.tiling.take(indices) if self.tiling else None,
        )


@dataclass(frozen=True)
class AccountRow:
    """Counts of the files of one role in one folder.

    Attributes:
        role: the role of the files, see `account.ROLES`.
        folder: the folder below the folder of the data, or "N folders".
        files: the number of files; None if the source has no files of its own.
        images: the number of images in the files.
        masks: the number of mask files that belong to these images.
        used: the number of images that train, are held out or are tested; for masks, of files that are used.
        left_out: the number of unused images for each reason.
    """

    role: str
    folder: str
    files: int | None
    images: int
    masks: int
    used: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Account:
    """A small table of the roles of files, and a record of every file."""

    rows: list[AccountRow]
    files: list[FileRecord]


@dataclass(frozen=True)
class NormalImage:
    """The facts about a normal image that a run remembers.

    Attributes:
        name: the name in `Split.names`.
        checksum: the CRC-32 of the pixels that the model gets.
        sha256: the SHA-256 of the encoded image, hexadecimal; "" if it is not known.
        role: "trained", "held_out", "tested" or "unused", see `history.py`.
    """

    name: str
    checksum: int
    sha256: str = ""
    role: str = ""


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Leave out everything after `test` if you make splits in Python for `train`.

    Attributes:
        train: the normal images to train on.
        calibration: the normal images that are held out to calibrate.
        test: the labelled test set.
        notes: sentences for the user about how the images were read.
        normal_digest: a digest of names, pixels and groups of `normal`. It decides which images are held out.
        normal: all normal images that could train, with their roles.
        account: the role of every file, and why files are not used.
        data: the configuration of the data, with the range and the bits that were found, see
            `pixel_range.resolve`.
    """

    train: Split
    calibration: Split
    test: Split
    notes: list[str] = field(default_factory=list)
    normal_digest: str = ""
    normal: list[NormalImage] = field(default_factory=list)
    account: Account = field(default_factory=lambda: Account([], []))
    data: DataConfig = field(default_factory=DataConfig)
