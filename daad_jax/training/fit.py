"""Fills memories with blocks of the training images: one pass over the images, and no steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage
from tqdm import tqdm

from daad_jax.config import Config
from daad_jax.data.samples import Split, Splits
from daad_jax.method import features
from daad_jax.method.coreset import choose_coreset
from daad_jax.method.state import TrainState
from daad_jax.scoring.memory_distances import make_memory_maps, pool_places
from daad_jax.scoring.scorer import BatchedFunction, images_at_once

# Blocks of the training images that are kept for the choice of the items, over all images. So the memory that
# a fit # needs does not grow with the number of images.
MAX_SAMPLED_BLOCKS = 40_000
EPSILON = 1e-6


@dataclass(frozen=True)
class BlockSample:
    """Blocks of one grid, from all training images.

    `blocks` `[n, D]` as the extractor gives them, `owners` `[n]` the number of each block's image, and
    `places` `[n, 2]` the row and column of its centre, from -0.5 to 0.5.
    """

    blocks: np.ndarray
    owners: np.ndarray
    places: np.ndarray


def fit(config: Config, splits: Splits, say: Callable[[str], None]) -> tuple[TrainState, Config]:
    """Fits the memories to the training images.

    Args:
        config: a validated configuration with `model.items = "coreset"`.
        splits: of the run.
        say: prints a line.

    Returns:
        The state, NumPy arrays at step 1, and the configuration with the numbers of items that the memories
        have: there may be fewer blocks than `model.memory_items` asks for.

    Raises:
        UserError: the weights of the extractor are missing.
    """
    extractor, layers = features.needed_layers(config.model)
    params = extractor.load(layers, config.model.feature_weights)
    say(f"reading the features of {len(splits.train)} training images with {extractor.title}")
    samples = sample_blocks(config, params, splits.train)
    memories = tuple(_fill(config, index, sample) for index, sample in enumerate(samples))
    frozen = {"extractor": params, "memories": memories}
    items = tuple(len(memory["items"]) for memory in memories)
    config = replace(config, model=replace(config.model, memory_items=items))
    units = _measure_units(config, frozen, splits.calibration)
    memories = tuple(memory | {"unit": unit} for memory, unit in zip(memories, units))
    return TrainState(np.int32(1), None, None, frozen | {"memories": memories}), config  # type: ignore[arg-type]


def prepare_features(config: Config, split: Split) -> Any:
    """The frozen part of a state whose networks learn: the extractor, and the scaling of its features.

    Raises:
        UserError: the weights of the extractor are missing.
    """
    extractor, layers = features.needed_layers(config.model)
    params = extractor.load(layers, config.model.feature_weights)
    (sample,) = sample_blocks(config, params, split)
    return {"extractor": params, "memories": (measure_scaling(sample.blocks, config.model.feature_scaling),)}


def sample_blocks(config: Config, params: Any, split: Split) -> list[BlockSample]:
    """Reads all training images once, and keeps a bounded number of blocks, equally many of each image."""
    size = (config.data.height, config.data.width)
    grids = [features.grid_of(block, *size) for block in config.model.blocks]
    per_image = [min(h * w, -(-MAX_SAMPLED_BLOCKS // len(split))) for h, w in grids]
    function = BatchedFunction(
        features.make_block_reader(config), images_at_once(size[0] * size[1], jax.default_backend())
    )
    kept: list[list[np.ndarray]] = [[] for _ in grids]
    chosen: list[list[np.ndarray]] = [[] for _ in grids]
    first = 0
    with tqdm(total=len(split), desc="reading", unit="image", disable=None) as bar:
        for batch, outputs in function.run(function.place(params), function.split(split.images)):
            for index, blocks in enumerate(outputs):
                flat = blocks.reshape(len(batch), -1, blocks.shape[-1])
                for number, image in enumerate(flat, first):
                    # A function of the image's number alone, whatever the batches are.
                    rng = np.random.default_rng([config.seed, 12, index, number])
                    places = np.sort(rng.permutation(len(image))[: per_image[index]])
                    kept[index].append(image[places])
                    chosen[index].append(places)
            first += len(batch)
            bar.update(len(batch))
    owners = np.arange(len(split), dtype=np.int32)
    return [
        BlockSample(
            np.concatenate(kept[i]),
            np.repeat(owners, per_image[i]),
            features.place_grid(*grid).reshape(-1, 2)[np.concatenate(chosen[i])],
        )
        for i, grid in enumerate(grids)
    ]


def measure_scaling(blocks: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """The `mean` and the `transform` of `features.scale` for blocks `[n, D]`.

    "whitened" shrinks the correlations by the amount of Ledoit and Wolf (2004), which needs no choice and
    suits few blocks as well as many.
    """
    mean = blocks.mean(0, dtype=np.float64)
    spread = np.maximum(blocks.std(0, dtype=np.float64), EPSILON)
    if kind == "raw":
        return {"mean": np.zeros_like(mean, np.float32), "transform": np.ones_like(mean, np.float32)}
    if kind == "standardised":
        return {"mean": mean.astype(np.float32), "transform": (1 / spread).astype(np.float32)}
    standardised = ((blocks - mean) / spread).astype(np.float32)
    shrinkage = float(ledoit_wolf_shrinkage(standardised, assume_centered=True))
    covariance = (standardised.T @ standardised).astype(np.float64) / len(blocks)
    size = len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    transform = (vectors / np.sqrt(np.maximum(values, EPSILON))) / spread[:, None]
    return {"mean": mean.astype(np.float32), "transform": transform.astype(np.float32)}


def _fill(config: Config, index: int, sample: BlockSample) -> dict[str, np.ndarray]:
    """The scaling and the items of one memory."""
    model = config.model
    memory = measure_scaling(sample.blocks, model.feature_scaling)
    points = np.asarray(features.scale(sample.blocks[:, None, None], memory))[:, 0, 0]  # type: ignore[arg-type]
    if model.place_weight:
        place = model.place_weight * np.sqrt(2 * points.var(0, dtype=np.float64).sum())
        memory["place"] = np.asarray(place, np.float32)
        points = np.concatenate([points, (place * sample.places).astype(np.float32)], axis=1)
    count = min(model.memory_items[index], len(points))
    chosen = choose_coreset(points, count, config.seed) if count < len(points) else np.arange(count)
    memory["items"] = points[chosen]
    return memory


def _measure_units(config: Config, frozen: Any, held_out: Split) -> list[np.ndarray]:
    """The mean distance of held-out images from every memory."""
    memory_maps = make_memory_maps(config)

    def distances(frozen: Any, images: jax.Array) -> list[jax.Array]:
        return [pool_places(m, config.score.pooling) for m in memory_maps(frozen, images)]

    size = config.data.height * config.data.width
    function = BatchedFunction(distances, images_at_once(size, jax.default_backend()))
    parts = [out for _, out in function.run(function.place(frozen), function.split(held_out.images))]
    means = (np.concatenate(each).mean(dtype=np.float64) for each in zip(*parts))
    return [np.asarray(max(mean, EPSILON), np.float32) for mean in means]
