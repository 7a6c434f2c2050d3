"""Takes a bounded sample of the blocks of many images, in one pass over the images."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from daad_jax.config import Config
from daad_jax.method import features
from daad_jax.scoring.scorer import BatchedFunction, images_at_once

# This many blocks of each grid are kept, over all images. So the memory of a fit does not grow with the
# number of images.
MAX_SAMPLED_BLOCKS = 40_000
# All blocks of the sampled images are kept, too, if they take no more than this: they are needed twice.
MAX_KEPT_BYTES = 2**29
Blocks = tuple[slice, list[np.ndarray]]  # which images a batch holds, and their blocks of every grid


class BlockSample(NamedTuple):
    """Blocks of one grid, from many images.

    Attributes:
        blocks: `[n, D]`, as the extractor gives them.
        owners: the number of each block's image, `[n]`.
        places: the row and the column of each block's centre, from -0.5 to 0.5, `[n, 2]`.
    """

    blocks: np.ndarray
    owners: np.ndarray
    places: np.ndarray

    def of_images(self, is_chosen: np.ndarray) -> "BlockSample":
        """Selects the blocks of the images for which `is_chosen`, bool `[N]`, is True."""
        rows = is_chosen[self.owners]
        return BlockSample(self.blocks[rows], self.owners[rows], self.places[rows])

    def scaled(self, memory: dict[str, np.ndarray]) -> np.ndarray:
        """The blocks as a memory compares them, `[n, D]`, or `[n, D + 2]` where the place counts.

        See `features.scale`, which does the same for whole grids.
        """
        plain = {key: value for key, value in memory.items() if key != "place"}
        points = np.asarray(features.scale(self.blocks[:, None, None], plain))[:, 0, 0]  # type: ignore[arg-type]
        if "place" not in memory:
            return points
        return np.concatenate([points, (memory["place"] * self.places).astype(np.float32)], axis=1)

    def place_length(self, scaling: dict[str, np.ndarray], weight: float) -> np.ndarray:
        """`weight` times the typical distance of two blocks, float32 `[]`."""
        variance = self.scaled(scaling).var(0, dtype=np.float64).sum()
        return np.asarray(weight * np.sqrt(2 * variance), np.float32)


class ImageReader:
    """Reads the blocks of images on all devices.

    Args:
        config: the configuration of the run.
        params: the parameters of the extractor.
        show_progress: whether a progress bar is shown, if standard error is a terminal.
    """

    def __init__(self, config: Config, params: Any, show_progress: bool) -> None:
        self._config, self._show_progress = config, show_progress
        self._size = (config.data.height, config.data.width)
        at_once = images_at_once(self._size[0] * self._size[1], jax.default_backend())
        self._function = BatchedFunction(features.make_block_reader(config), at_once)
        self._params = self._function.place(params)
        self._kept: list[Blocks] = []
        self._kept_images: Any = None  # the images of the kept blocks

    def read_again(self, images: Any, title: str) -> Iterator[Blocks]:
        """Yields the same as `read`. Images whose blocks the last `sample` kept are not read again."""
        return iter(self._kept) if images is self._kept_images else self.read(images, title)

    def read(self, images: Any, title: str) -> Iterator[Blocks]:
        """Yields for every batch which images it holds, and their blocks `[b, h, w, D]` of every grid.

        Args:
            images: uint8 or uint16 `[N, H, W, C]` (anything that slices into arrays).
            title: the title of the progress bar.
        """
        first, is_hidden = 0, None if self._show_progress else True
        with tqdm(total=len(images), desc=title, unit="image", disable=is_hidden) as bar:
            for batch, blocks in self._function.run(self._params, self._function.split(images)):
                yield slice(first, first + len(batch)), list(blocks)
                first += len(batch)
                bar.update(len(batch))

    def sample(self, images: Any, title: str) -> list[BlockSample]:
        """Reads all images, and keeps `MAX_SAMPLED_BLOCKS` of each grid, equally many of each image.

        The seed and the image's number alone decide which blocks of an image are kept. If there are more
        images than `MAX_SAMPLED_BLOCKS`, the seed chooses some images.
        """
        sampled = np.random.default_rng([self._config.seed, 14]).permutation(len(images))
        sampled = np.sort(sampled[:MAX_SAMPLED_BLOCKS]).astype(np.int32)
        is_sampled = np.isin(np.arange(len(images)), sampled)
        grids = [features.grid_of(block, *self._size) for block in self._config.model.blocks]
        per_image = [min(h * w, -(-MAX_SAMPLED_BLOCKS // len(sampled))) for h, w in grids]
        kept: list[list[np.ndarray]] = [[] for _ in grids]
        places: list[list[np.ndarray]] = [[] for _ in grids]
        for rows, batch in self._keep(images, self.read(images, title)):
            for index, blocks in enumerate(batch):
                for number, of_image in enumerate(
                    blocks.reshape(len(blocks), -1, blocks.shape[-1]), rows.start
                ):
                    if not is_sampled[number]:
                        continue
                    rng = np.random.default_rng([self._config.seed, 12, index, number])
                    chosen = np.sort(rng.permutation(len(of_image))[: per_image[index]])
                    kept[index].append(of_image[chosen])
                    places[index].append(features.place_grid(*grids[index]).reshape(-1, 2)[chosen])
        return [
            BlockSample(np.concatenate(kept[i]), np.repeat(sampled, per_image[i]), np.concatenate(places[i]))
            for i in range(len(grids))
        ]

    def _keep(self, images: Any, batches: Iterator[Blocks]) -> Iterator[Blocks]:
        """Yields the batches of all images, and keeps them if they are small enough together."""
        kept: list[Blocks] = []
        left = MAX_KEPT_BYTES
        self._kept, self._kept_images = [], None
        for rows, blocks in batches:
            yield rows, blocks
            left -= sum(each.nbytes for each in blocks)
            if left >= 0:
                kept.append((rows, blocks))
            else:
                kept.clear()
        if left >= 0:
            self._kept, self._kept_images = kept, images
