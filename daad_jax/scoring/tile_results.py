"""Joins the distances of tiles, so that every image that was cut has its own (`config.data.tiles`)."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from daad_jax.scoring.distances import Distances


class Joiner(Protocol):
    """Joins the values over the tiles of one image, tile by tile."""

    def add(self, values: np.ndarray) -> None:
        """Adds the values over the next tile, `[H, W, ...]`."""

    def finish(self) -> np.ndarray:
        """The values over the whole image, `[h, w, ...]`."""


class Grid(Protocol):
    """The tiles of one image."""

    @property
    def count(self) -> int:
        """The number of tiles."""

    def blend(self) -> Joiner:
        """Joins maps `[H, W]`; overlaps are blended."""

    def paste(self) -> Joiner:
        """Joins pictures `[H, W, C]`; in an overlap, the later tile is seen."""


class TiledImage(NamedTuple):
    """The distances of one image of k tiles.

    `reconstruction` and `alignment` have R and L of each tile, `[k]`. `reconstruction_map` and
    `alignment_map` `[h, w]` cover the whole image. `image` and `reconstructed` `[h, w, C]` are the image and
    its reconstruction, put together of tiles; `reconstructed` is None if the model reads features.
    """

    reconstruction: np.ndarray
    alignment: np.ndarray
    reconstruction_map: np.ndarray
    alignment_map: np.ndarray
    image: np.ndarray
    reconstructed: np.ndarray | None


def join_tiles(
    batches: Iterable[tuple[np.ndarray, Distances]], grids: Iterable[Grid]
) -> Iterator[TiledImage]:
    """Yields every image as soon as its last tile is there.

    The maps and the pixels of one image are in memory, at the resolution of the tiles.

    Args:
        batches: batches of tiles `[b, H, W, C]` with their distances, image after image. A batch may have
            tiles of several images.
        grids: the grid of each image. The next grid is taken when the first tile of an image arrives.
    """
    upcoming = iter(grids)
    image: _Image | None = None
    for pixels, distances in batches:
        for row in range(len(pixels)):
            image = image or _Image(next(upcoming), has_reconstruction=distances.reconstructed is not None)
            image.add(pixels, distances, row)
            if image.is_complete:
                yield image.finish()
                image = None


class _Image:
    """One image, while its tiles arrive."""

    def __init__(self, grid: Grid, has_reconstruction: bool) -> None:
        self._count = grid.count
        self._reconstruction: list[float] = []
        self._alignment: list[float] = []
        self._reconstruction_map, self._alignment_map, self._pixels = grid.blend(), grid.blend(), grid.paste()
        self._reconstructed = grid.paste() if has_reconstruction else None

    def add(self, pixels: np.ndarray, distances: Distances, row: int) -> None:
        """Adds the next tile, which is one row of a batch."""
        self._reconstruction.append(distances.reconstruction[row])  # type: ignore[arg-type]
        self._alignment.append(distances.alignment[row])  # type: ignore[arg-type]
        self._reconstruction_map.add(np.asarray(distances.reconstruction_map[row]))
        self._alignment_map.add(np.asarray(distances.alignment_map[row]))
        self._pixels.add(pixels[row])
        if self._reconstructed and distances.reconstructed is not None:
            self._reconstructed.add(np.asarray(distances.reconstructed[row]))

    @property
    def is_complete(self) -> bool:
        return len(self._reconstruction) == self._count

    def finish(self) -> TiledImage:
        return TiledImage(
            np.array(self._reconstruction, np.float64),
            np.array(self._alignment, np.float64),
            self._reconstruction_map.finish(),
            self._alignment_map.finish(),
            self._pixels.finish(),
            self._reconstructed.finish() if self._reconstructed else None,
        )
