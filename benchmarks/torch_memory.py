"""Memories over features in PyTorch, for comparison with ours: the same network, scaling and items.

It is written as PyTorch's users write PyTorch: `avg_pool2d`, `adaptive_avg_pool2d`, `cdist` and
`interpolate`.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.torch_features import TorchFeatures
from daad_jax.config import Config
from daad_jax.method import features
from daad_jax.scoring.filters import blur_matrix


class TorchMemories:
    """R and its map of images, as `scoring.distances.make_distances` gives them for a coreset.

    The blocks must divide the maps evenly, or be smaller than a place, and the nearest item alone is read.

    Args:
        config: the configuration of a coreset over an EfficientNet.
        frozen: the features of a state, see `method.features.abstract_features`.
        channels_last: keeps the maps in PyTorch's memory format of this name.
    """

    def __init__(self, config: Config, frozen: Any, channels_last: bool) -> None:
        assert config.model.nearest == 1
        self._config = config
        extractor, self._layers = features.extractor_of(config.model)
        network: Any = extractor.network
        self._features = TorchFeatures(network, frozen["extractor"], channels_last)
        self._memories = [
            {name: torch.from_numpy(np.array(value)) for name, value in memory.items()}
            for memory in frozen["memories"]
        ]
        self._size = (config.data.height, config.data.width)
        sigma = config.score.heat_smoothing * min(self._size)
        self._blur = [torch.from_numpy(blur_matrix(n, sigma)) for n in self._size]
        self._places = [
            torch.from_numpy(features.place_grid(*features.grid_of(block, *self._size)).reshape(-1, 2))
            for block in config.model.blocks
        ]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 `[B, H, W, 3]` -> R `[B]` and its map `[B, H, W]`."""
        model, score = self._config.model, self._config.score
        maps = self._features(self._features.arrange(images.permute(0, 3, 1, 2).float() / 255))
        side = model.neighbourhood
        pooled = {
            layer: F.avg_pool2d(maps[layer], side, 1, side // 2, count_include_pad=False)
            for layer in {layer for block, each in zip(model.blocks, self._layers) if block for layer in each}
        }
        r: Any = 0.0
        heat: Any = 0.0
        count = len(model.blocks)
        weights, heat_weights = (chosen or (1.0,) * count for chosen in (score.weights, score.heat_weights))
        for index, (block, layers, memory) in enumerate(zip(model.blocks, self._layers, self._memories)):
            grid = features.grid_of(block, *self._size)
            if block:
                blocks = torch.cat([_to_grid(pooled[layer], grid) for layer in layers], 1)
            else:
                flat = [maps[layer].flatten(2) for layer in layers]
                parts = [x.mean(2) for x in flat]
                if model.spread:
                    parts += [x.std(2, correction=0) for x in flat]
                blocks = torch.cat(parts, 1)[:, :, None, None]
            distances = self._compare(blocks, memory, self._places[index]) / memory["unit"]
            if weights[index]:
                r = r + weights[index] * _pool(distances, score.pooling)
            if heat_weights[index]:
                square = distances.reshape(-1, 1, *grid)
                heat = heat + heat_weights[index] * F.interpolate(square, self._size, mode="bilinear")[:, 0]
        heat = self._blur[0] @ (heat / sum(heat_weights)) @ self._blur[1].T
        return r / sum(weights), heat

    def _compare(self, blocks: Tensor, memory: dict[str, Tensor], places: Tensor) -> Tensor:
        """The distance from the nearest item: `[B, D, h, w]` -> `[B, h w]`."""
        queries = blocks.flatten(2).transpose(1, 2) - memory["mean"]
        transform = memory["transform"]
        queries = queries * transform if transform.ndim == 1 else queries @ transform
        if "place" in memory:
            place = (memory["place"] * places).expand(len(queries), -1, -1)
            queries = torch.cat([queries, place], 2)
        nearest = torch.cdist(queries.flatten(0, 1), memory["items"]).amin(1)
        return nearest.reshape(len(queries), -1)


def _to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(x.shape[2:]) == grid:
        return x
    if grid[0] > x.shape[2]:
        return F.interpolate(x, grid, mode="bilinear")
    assert all(size % count == 0 for size, count in zip(x.shape[2:], grid))
    return F.adaptive_avg_pool2d(x, grid)


def _pool(distances: Tensor, pooling: int) -> Tensor:
    """The power mean of the squares: `[B, P]` -> `[B]`."""
    squares = distances.square()
    largest = squares.amax(1, keepdim=True).clamp_min(1e-12)
    return (largest[:, 0] * (squares / largest).pow(pooling).mean(1).pow(1 / pooling)).sqrt()
