"""Fills memories with blocks of the training images: no steps, and no gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.data.samples import Split, Splits
from daad_jax.errors import UserError
from daad_jax.method import features
from daad_jax.method.coreset import choose_coreset
from daad_jax.method.state import TrainState
from daad_jax.scoring.leave_one_out import image_distances
from daad_jax.scoring.memory_distances import SMALLEST_UNIT, make_memory_maps, pool_places
from daad_jax.scoring.scorer import BatchedFunction, images_at_once
from daad_jax.training.block_sample import BlockSample, ImageReader
from daad_jax.training.place_choice import choose_place_weight, describe_choice
from daad_jax.training.scaling import measure_scaling

Memory = dict[str, np.ndarray]


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        state: NumPy arrays, at step 1.
        config: the configuration with the values that the fit found: the number of items (there may be fewer
            blocks than `model.memory_items`), how many items are read, and `model.place_weight`.
        distances: R of every training image, `[N]`, as if the image had not trained: it is not compared with
            its own items. R of an image in tiles is the R of its least normal tile.
    """

    state: TrainState
    config: Config
    distances: np.ndarray


def fit(config: Config, splits: Splits, say: Callable[[str], None], show_progress: bool = False) -> Fitted:
    """Fits the memories to the training images.

    Args:
        config: a validated configuration with `model.items = "coreset"`.
        splits: the images of the run.
        say: prints a line.
        show_progress: whether progress bars are shown, if standard error is a terminal.

    Raises:
        UserError: the weights of the extractor are missing, or all training images are equal.
    """
    _require_different(splits.train)
    # Read the images once, and keep some of their blocks.
    extractor, layers = features.needed_layers(config.model)
    params = extractor.load(layers, config.model.feature_weights)
    say(f"reading the features of {len(splits.train)} training images with {extractor.title}")
    reader = ImageReader(config, params, show_progress)
    samples = reader.sample(splits.train.images, "reading")
    # Choose the items.
    scalings = [measure_scaling(sample.blocks, config.model.feature_scaling) for sample in samples]
    if config.model.place_weight < 0 and config.data.tiles:
        # A memory knows the place in a tile, which says little about the place in the image.
        say("a block may be anywhere: the place of a block does not count in tiles (config.data.tiles)")
        config = replace(config, model=replace(config.model, place_weight=0.0))
    elif config.model.place_weight < 0:
        separations = choose_place_weight(config, reader, samples, scalings, splits.train.images)
        chosen = max(separations, key=lambda weight: separations[weight]) if separations else 0.0
        say(describe_choice(separations))
        config = replace(config, model=replace(config.model, place_weight=chosen))
    pairs = [_fill(config, i, sample, scaling) for i, (sample, scaling) in enumerate(zip(samples, scalings))]
    memories, item_rows = [memory for memory, _ in pairs], [rows for _, rows in pairs]
    items = tuple(len(memory["items"]) for memory in memories)
    nearest = min(config.model.nearest, *items)
    config = replace(config, model=replace(config.model, memory_items=items, nearest=nearest))
    say(f"filled memories of {', '.join(map(str, items))} items; comparing the training images")
    # Measure the held-out images and the training images.
    units = _measure_units(config, {"extractor": params, "memories": tuple(memories)}, splits.calibration)
    memories = [memory | {"unit": unit} for memory, unit in zip(memories, units)]
    distances = _leave_one_out(config, reader, splits.train, memories, item_rows)
    frozen = {"extractor": params, "memories": tuple(memories)}
    return Fitted(TrainState(np.int32(1), None, None, frozen), config, distances)  # type: ignore[arg-type]


def prepare_features(config: Config, split: Split, show_progress: bool) -> Any:
    """The frozen part of a state whose networks learn: the extractor, and the scaling of its features.

    Raises:
        UserError: the weights of the extractor are missing.
    """
    extractor, layers = features.needed_layers(config.model)
    params = extractor.load(layers, config.model.feature_weights)
    (sample,) = ImageReader(config, params, show_progress).sample(split.images, "reading")
    return {"extractor": params, "memories": (measure_scaling(sample.blocks, config.model.feature_scaling),)}


def _require_different(train: Split) -> None:
    """Raises UserError if all training images are equal: distances would be nothing but rounding errors."""
    images, count = train.images, len(train.images)
    if count > 1 and all(np.array_equal(images[0], images[row]) for row in range(1, count)):
        raise UserError(
            f"config.data: all training images have the same pixels ({train.names[0]} and {len(train) - 1} "
            "more), so they do not show how good images differ; give different images of good parts"
        )


def _fill(config: Config, index: int, sample: BlockSample, scaling: Memory) -> tuple[Memory, np.ndarray]:
    """The scaling and the items of a memory, and the row of the training images that each item is from."""
    model, memory = config.model, scaling
    if model.place_weight:
        memory = memory | {"place": sample.place_length(scaling, model.place_weight)}
    points = sample.scaled(memory)
    count = min(model.memory_items[index], len(points))
    chosen = choose_coreset(points, count, config.seed) if count < len(points) else np.arange(count)
    return memory | {"items": points[chosen]}, sample.owners[chosen]


def _measure_units(config: Config, frozen: Any, held_out: Split) -> list[np.ndarray]:
    """The mean distance of held-out images from every memory."""
    memory_maps = make_memory_maps(config)

    def distances(frozen: Any, images: jax.Array) -> list[jax.Array]:
        return [pool_places(m, config.score.pooling) for m in memory_maps(frozen, images)]

    size = config.data.height * config.data.width
    function = BatchedFunction(distances, images_at_once(size, jax.default_backend()))
    parts = [out for _, out in function.run(function.place(frozen), function.split(held_out.images))]
    means = (np.concatenate(each).mean(dtype=np.float64) for each in zip(*parts))
    return [np.asarray(max(mean, SMALLEST_UNIT), np.float32) for mean in means]


def _leave_one_out(
    config: Config, reader: ImageReader, train: Split, memories: list[Memory], item_rows: list[np.ndarray]
) -> np.ndarray:
    """R of every training image, compared with the items of other images only: `[N]`.

    `item_rows` are the rows of `train.images` that the items of each memory came from. The tiles of an image
    overlap, so a tile is not compared with items of other tiles of its image.
    """
    weights = config.score.weights or (1.0,) * len(memories)
    owners = train.owners
    distances = np.zeros(len(train.images))
    for rows, batch in reader.read_again(train.images, "comparing"):
        for weight, blocks, memory, from_rows in zip(weights, batch, memories, item_rows):
            if weight:
                of_rows = image_distances(
                    blocks, owners[rows], memory, owners[from_rows], config.score.pooling
                )
                distances[rows] += weight * of_rows / memory["unit"]
    return train.largest(distances / sum(weights))
