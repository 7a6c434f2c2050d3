"""What a source of images offers, and the splits that a run makes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture
from daad_jax.data.tiles import TileGrid, Tiling

GOOD = "good"  # the kind of normal images, in sources that mark defects
# The parts of a source. Normal images of "train" train, or are held out by seed. All images of
# "held_out" are held out, and all images of "test" are tested.
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
        pixel_type: tells the NumPy type that the pixels decode to ("uint8", "uint16", ...) from the header of
            the file; None: only decoding tells. It may raise any error for a damaged file.
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
    """What became of one file that was given.

    Attributes:
        name: the path below the folder of the data.
        role: what the file was taken for, for people: "training", "test good", "mask", ...
        images: how many images the file holds; 0 if the file is no image.
        masks: how many mask files belong to the image.
        reason: why the file is left out; "" if it is used.
        sha256: of the file, hexadecimal; "" as long as the file was not read.
    """

    name: str
    role: str
    images: int = 1
    masks: int = 0
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
    `read` lists the samples; it is not called if the decoded images are in the cache. The files of the
    listing are below `root`; None if there are no such files.
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
        """Some of the rows, which are not read yet."""
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
        """A split of images in memory, for `train(config, workdir, data=Splits(...))`.

        Args:
            images: uint8 `[N, H, W, C]`, at the size and with the channels of the model.
            labels: 0 (normal) or 1 (anomalous), `[N]`; None: all are normal.
            names: one for each image; None: "image 0", "image 1", ...
        """
        labels = np.zeros(len(images), np.int8) if labels is None else np.asarray(labels, np.int8)
        kinds = [GOOD if label == 0 else "anomalous" for label in labels]
        return cls(images, labels, kinds, names or [f"image {i}" for i in range(len(images))])

    @property
    def group_count(self) -> int:
        """How many groups the images are in; N if each image is for itself."""
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
        """The largest value of each image, from one value for each row of `images`: `[T]` -> `[N]`."""
        return np.maximum.reduceat(values, self.tiling.first_rows) if self.tiling else values

    def is_marked(self) -> np.ndarray:
        """Which images have a mask that marks something: bool `[N]`."""
        if self.masks is None:
            return np.zeros(len(self), bool)
        return self.largest(np.asarray(self.masks.any(axis=(1, 2))))

    def picture(self, index: int) -> np.ndarray:
        """A whole image `[H, W, C]`; with tiles `[*joined_size, C]`, see `TileGrid`."""
        return self._join(self.images, index)

    def mask(self, index: int) -> np.ndarray:
        """The mask of a whole image, uint8 of the size of its picture; the split must have masks."""
        return self._join(self.masks, index)

    def _join(self, rows: Any, index: int) -> np.ndarray:
        if not self.tiling:
            return np.asarray(rows[index])
        joiner = self.tiling.grids[index].paste()
        for tile in rows[self.tiling.rows_of([index])]:
            joiner.add(tile)
        return joiner.finish()

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """The examples at `indices`, with `labels` (one for each of them) instead of their own if given."""
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
    """What became of the files of one role in one folder.

    Attributes:
        role: what the files were taken for, see `account.ROLES`.
        folder: their folder below the folder of the data, or "N folders".
        files: how many files they are; None if the source has no files of its own.
        images: how many images are in them.
        masks: how many mask files belong to these images.
        used: how many of the images train, are held out or are tested; of masks, how many files are used.
        left_out: why the others are not used, and how many for each reason.
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
    """The rows of a small table of what was taken for what, and a record of every file."""

    rows: list[AccountRow]
    files: list[FileRecord]


@dataclass(frozen=True)
class NormalImage:
    """What a run remembers of a normal image that trains or is held out.

    Attributes:
        name: as in `Split.names`.
        checksum: CRC-32 of the pixels that the model gets.
        sha256: of the encoded image, hexadecimal; "" if it is not known.
        role: "trained", "held_out" or "unused".
    """

    name: str
    checksum: int
    sha256: str = ""
    role: str = ""


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    `train` and `calibration` are normal images: to train on, and held out to calibrate. `test` is the
    labelled test set. `notes` are sentences for the user about how the images were read. `normal` are all
    normal images that could train, with what became of them. `normal_digest` is a digest of their names,
    pixels and groups: which of them are held out depends on it. `account` says what became of every file.
    `data` is the configuration of the data with the range and the bits that were found, see
    `pixel_range.resolve`.
    Whoever makes splits in Python for `train` leaves out the last five.
    """

    train: Split
    calibration: Split
    test: Split
    notes: list[str] = field(default_factory=list)
    normal_digest: str = ""
    normal: list[NormalImage] = field(default_factory=list)
    account: Account = field(default_factory=lambda: Account([], []))
    data: DataConfig = field(default_factory=DataConfig)
