"""Cuts large images into overlapping tiles (`config.data.tiles`), and joins the maps of the tiles.

The tiles of an image form a grid, and come row by row. All tiles have the same size in the file, and are
brought to the size of the model. A joined map covers the whole image with the resolution of the tiles, so it
is smaller than the image if tiles are shrunk.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from daad_jax.config import DataConfig

MIN_OVERLAP = 0.25  # two neighbours share at least this part of a tile's side


class Box(NamedTuple):
    """The pixels of a tile in its image: rows from `top` to `bottom`, columns from `left` to `right`."""

    top: int
    left: int
    bottom: int
    right: int


def place_tiles(length: int, side: int) -> list[int]:
    """Returns the first pixels of the tiles along one side of an image.

    The tiles are spread evenly, and the last tile ends with the image. Neighbours overlap by at least a
    quarter.

    Args:
        length: the length of the image's side, in pixels. A side without pixels has no tile.
        side: the side of a tile in pixels, at most `length`.
    """
    rest = length - side
    if not rest:
        return [0] * bool(length)
    steps = math.ceil(rest / max(1, math.floor((1 - MIN_OVERLAP) * side)))
    return [_round(i * rest / steps) for i in range(steps + 1)]


def _round(value: float) -> int:
    """Rounds to the nearest integer, and halves up, so that `_round(x + 1)` is `_round(x) + 1`."""
    return math.floor(value + 0.5)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image.

    Attributes:
        size: rows and columns of the image in its file.
        side: the side of a tile in the file (`config.data.tiles`). A shorter side of the image has one tile.
        model_size: rows and columns that each tile is brought to.
    """

    size: tuple[int, int]
    side: int
    model_size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], config: DataConfig) -> "TileGrid":
        """Returns the grid of an image of `size` (rows, columns), by a configuration with tiles."""
        return cls(size, config.tiles, (config.height, config.width))

    @cached_property
    def _tile(self) -> tuple[int, int]:
        rows, columns = (min(self.side, length) for length in self.size)
        return rows, columns

    @cached_property
    def _starts(self) -> tuple[list[int], list[int]]:
        rows, columns = (place_tiles(*pair) for pair in zip(self.size, self._tile))
        return rows, columns

    @cached_property
    def _joined_starts(self) -> tuple[list[int], list[int]]:
        """The first rows and the first columns of the tiles in the joined map."""
        rows, columns = (
            [_round(start * target / side) for start in starts]
            for starts, target, side in zip(self._starts, self.model_size, self._tile)
        )
        return rows, columns

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self._starts[0]) * len(self._starts[1])

    @property
    def joined_size(self) -> tuple[int, int]:
        """Rows and columns of the joined map."""
        rows, columns = (starts[-1] + target for starts, target in zip(self._joined_starts, self.model_size))
        return rows, columns

    def boxes(self) -> Iterator[Box]:
        """Yields the pixels of each tile in the image."""
        rows, columns = self._tile
        for top in self._starts[0]:
            for left in self._starts[1]:
                yield Box(top, left, top + rows, left + columns)

    def window(self, number: int) -> tuple[slice, slice]:
        """Returns the rows and the columns of the joined map that tile `number` covers."""
        row, column = divmod(number, len(self._starts[1]))
        top, left = self._joined_starts[0][row], self._joined_starts[1][column]
        return slice(top, top + self.model_size[0]), slice(left, left + self.model_size[1])

    def cut(self, joined: np.ndarray) -> np.ndarray:
        """Cuts a map over the whole image into tiles: `[*joined_size, ...]` -> `[count, H, W, ...]`."""
        return np.stack([joined[self.window(number)] for number in range(self.count)])

    def blend(self) -> "BlendedMap":
        """Returns an object that joins maps over the tiles."""
        return BlendedMap(self)

    def paste(self) -> "PastedPicture":
        """Returns an object that joins pictures of the tiles."""
        return PastedPicture(self)

    @cached_property
    def ramps(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights of a tile's rows and of its columns, float32 `[H]` and `[W]`.

        The weights fall towards the tile's border. The weight of a place is the product of the weights of its
        row and its column.
        """
        rows, columns = (
            np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5).astype(np.float32)
            for length in self.model_size
        )
        return rows, columns

    @cached_property
    def ramp_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """The sums of the weights over all tiles, float32, for the rows and the columns of the joined map.

        The sum at a place is the product of the sums of its row and its column, because the tiles form a
        grid.
        """
        sums = [np.zeros(length, np.float32) for length in self.joined_size]
        for total, starts, ramp in zip(sums, self._joined_starts, self.ramps):
            for start in starts:
                total[start : start + len(ramp)] += ramp
        return sums[0], sums[1]


class BlendedMap:
    """Joins the maps of an image's tiles, tile by tile. In an overlap, the middles of tiles count more."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid, self._number = grid, 0
        self._joined = np.zeros(grid.joined_size, np.float32)

    def add(self, values: np.ndarray) -> None:
        """Adds the map over the next tile, float32 `[H, W]`."""
        rows, columns = self._grid.ramps
        self._joined[self._grid.window(self._number)] += rows[:, None] * columns * values
        self._number += 1

    def finish(self) -> np.ndarray:
        """Returns the map over the whole image, float32 `[*joined_size]`, after the last tile was added."""
        rows, columns = self._grid.ramp_sums
        self._joined /= rows[:, None]
        self._joined /= columns
        return self._joined


class PastedPicture:
    """Joins the pictures of an image's tiles, tile by tile. In an overlap, the later tile is visible."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid, self._number = grid, 0
        self._joined: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Adds the picture of the next tile, `[H, W, ...]`."""
        if self._joined is None:
            self._joined = np.zeros((*self._grid.joined_size, *values.shape[2:]), values.dtype)
        self._joined[self._grid.window(self._number)] = values
        self._number += 1

    def finish(self) -> np.ndarray:
        """Returns the whole picture, `[*joined_size, ...]`, after the last tile was added."""
        assert self._joined is not None
        return self._joined


@dataclass(frozen=True)
class Tiling:
    """Says which rows of an array of tiles belong to which of N images.

    The tiles of an image are consecutive rows. `first_rows` `[N]` has the first row of each image.
    """

    grids: Sequence[TileGrid]
    first_rows: np.ndarray

    @classmethod
    def in_order(cls, grids: Sequence[TileGrid]) -> "Tiling":
        """Returns the tiling of an array in which the images follow each other."""
        return cls(grids, np.cumsum([0, *(grid.count for grid in grids)])[:-1])

    def rows_of(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the rows of the tiles of the images at `indices`, one image after the other: int `[T]`."""
        parts = [self.first_rows[i] + np.arange(self.grids[i].count) for i in indices]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Tiling":
        """Returns the tiling of the array that has only the rows `rows_of(indices)`."""
        return Tiling.in_order([self.grids[i] for i in indices])

    @cached_property
    def owners(self) -> np.ndarray:
        """The image of each row of an array in order: int `[T]`."""
        counts = np.array([grid.count for grid in self.grids], int)
        return np.repeat(np.arange(len(self.grids)), counts)
