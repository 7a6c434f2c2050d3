"""Computes features of an image's blocks. Memories can read these features instead of pixels.

A frozen extractor gives maps of several resolutions. The image is cut into square blocks, and a block is
described by the average features of all maps inside it, one after the other: PatchCore (Roth et al., CVPR
2022) for small blocks, and DAAD's coarser blocks, up to the whole image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config, ModelConfig
from daad_jax.extractors.extractor import Extractor, find_extractor
from daad_jax.method.restoration import to_unit
from daad_jax.models.layers import Implementation

EPSILON = 1e-12
Blocks = tuple[jax.Array, ...]  # [B, h, w, D] for each entry of `config.model.blocks`


def extractor_of(model: ModelConfig) -> tuple[Extractor, tuple[tuple[int, ...], ...]]:
    """Returns the frozen network of a configuration, and the layers that each memory reads.

    Raises:
        UserError: the configuration names an unknown network.
    """
    extractor = find_extractor(model.features)
    return extractor, model.feature_layers or (extractor.default_layers,) * len(model.blocks)


def needed_layers(model: ModelConfig) -> tuple[Extractor, tuple[int, ...]]:
    """Returns the frozen network, and all layers that any memory reads, in ascending order."""
    extractor, layers = extractor_of(model)
    return extractor, tuple(sorted({layer for each in layers for layer in each}))


def grid_of(block: int, height: int, width: int) -> tuple[int, int]:
    """Returns the rows and columns of blocks of `block` pixels in an image; 0 makes the image one block."""
    return (-(-height // block), -(-width // block)) if block else (1, 1)


def channels_of(model: ModelConfig, index: int) -> int:
    """Returns D, the number of features of a block that memory `index` reads."""
    extractor, layers = extractor_of(model)
    has_spread = model.spread and not model.blocks[index]
    return sum(extractor.channels(layer) for layer in layers[index]) * (2 if has_spread else 1)


def make_block_reader(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Any, jax.Array], Blocks]:
    """Makes a function that computes `Blocks` from an extractor's parameters and images `[B, H, W, C]`."""
    model, size = config.model, (config.data.height, config.data.width)
    extractor, layers = needed_layers(model)
    _, layers_of = extractor_of(model)

    def read_blocks(params: Any, images: jax.Array) -> Blocks:
        maps = dict(zip(layers, extractor.apply(params, to_unit(images), layers, implementation)))
        described = []
        for block, chosen in zip(model.blocks, layers_of):
            read = [maps[layer] for layer in chosen]
            if block:
                described.append(describe(read, grid_of(block, *size), model.neighbourhood))
            else:
                described.append(describe_image(read, model.spread))
        return tuple(described)

    return read_blocks


def describe(maps: Sequence[jax.Array], grid: tuple[int, int], neighbourhood: int) -> jax.Array:
    """Computes the features of all blocks of a grid.

    Args:
        maps: the maps of the extractor, `[B, h, w, C]` each; their sizes may differ.
        grid: the rows and columns of blocks.
        neighbourhood: the side of a square, odd. First, each place gets the average of the square around it.

    Returns:
        The features, `[B, rows, columns, D]`. D is the sum of all C.
    """
    return jnp.concatenate([_average(features, grid, neighbourhood) for features in maps], axis=-1)


def describe_image(maps: Sequence[jax.Array], with_spread: bool) -> jax.Array:
    """Computes the features of the whole image: the mean of each channel over all places.

    Args:
        maps: the maps of the extractor, `[B, h, w, C]` each; their sizes may differ.
        with_spread: whether the standard deviations of all channels follow the means of all maps.

    Returns:
        The features, `[B, 1, 1, D]`. D is the sum of all C, or twice this sum with `with_spread`.
    """
    means = [jnp.mean(features, (1, 2), keepdims=True) for features in maps]
    if not with_spread:
        return jnp.concatenate(means, axis=-1)
    squares = [jnp.mean(jnp.square(x - mean), (1, 2), keepdims=True) for x, mean in zip(maps, means)]
    return jnp.concatenate([*means, *(jnp.sqrt(jnp.maximum(s, EPSILON)) for s in squares)], axis=-1)


def _average(features: jax.Array, grid: tuple[int, int], neighbourhood: int) -> jax.Array:
    rows, columns = (
        jnp.asarray((block_matrix(size, count) @ box_matrix(size, neighbourhood)).astype(np.float32))
        for size, count in zip(features.shape[1:3], grid)
    )
    wide = jnp.einsum("jw,bhwc->bhjc", columns, features, precision="highest")
    return jnp.einsum("ih,bhjc->bijc", rows, wide, precision="highest")


def box_matrix(size: int, side: int) -> np.ndarray:
    """Makes the matrix `[size, size]` that averages `side` neighbours along an axis, fewer at its ends."""
    offsets = np.abs(np.arange(size)[:, None] - np.arange(size)[None])
    inside = (offsets <= side // 2).astype(np.float64)
    return inside / inside.sum(1, keepdims=True)


def block_matrix(size: int, count: int) -> np.ndarray:
    """Makes the matrix `[count, size]` that turns `size` places along an axis into `count` blocks.

    A block that covers several places gets the average of these places. The covered share of a place is its
    weight. Blocks smaller than a place are interpolated linearly between the centres of the places.
    """
    edges = np.arange(count + 1) * size / count
    if count <= size:
        places = np.arange(size)[None]
        covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
        return np.maximum(covered, 0) * count / size
    centres = np.clip((edges[1:] + edges[:-1]) / 2 - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(size)[None]), 0)


def scale(blocks: jax.Array, scaling: dict[str, jax.Array]) -> jax.Array:
    """Scales features to the units of the training images, and appends the place of each block if it counts.

    Args:
        blocks: the blocks of one grid, `[B, h, w, D]`.
        scaling: a table of arrays. `mean` is `[D]`. `transform` is `[D]` (a factor for each channel) or
            `[D, D]` (a matrix). `place` exists only if the place counts: it is the distance between the upper
            and the lower edge of an image.

    Returns:
        `[B, h, w, D]`, or `[B, h, w, D + 2]` if the place counts.
    """
    centred, transform = blocks - scaling["mean"].reshape(1, 1, 1, -1), scaling["transform"]
    if transform.ndim == 1:
        scaled = centred * transform.reshape(1, 1, 1, -1)
    else:
        scaled = jnp.matmul(centred, transform, precision="highest")
    if "place" not in scaling:
        return scaled
    places = scaling["place"] * place_grid(*blocks.shape[1:3])
    return jnp.concatenate([scaled, jnp.broadcast_to(places, (*blocks.shape[:3], 2))], axis=-1)


def place_grid(rows: int, columns: int) -> np.ndarray:
    """Returns the row and the column of every block's centre, from -0.5 to 0.5: `[rows, columns, 2]`."""
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in (rows, columns)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)


def make_encoder(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Any, jax.Array], jax.Array]:
    """Makes a function that turns images into the networks' input.

    The function takes a state's frozen features and images, uint8 or uint16 `[B, H, W, C]`. It returns pixels
    in [0, 1]. If the configuration has `model.features`, it returns the scaled features of the blocks
    instead.
    """
    if not config.model.features:
        return lambda _, images: to_unit(images)
    read_blocks = make_block_reader(config, implementation)

    def encode(frozen: Any, images: jax.Array) -> jax.Array:
        (blocks,) = read_blocks(frozen["extractor"], images)
        return scale(blocks, frozen["memories"][0])

    return encode


def abstract_features(config: Config) -> Any:
    """Returns the shapes and types of the frozen part of a state: the extractor, and one entry per memory.

    Each entry has the `mean` and the `transform` that `scale` reads. If the items come from the data, the
    entry also has the `items` `[N, D]` and the `unit` of the memory's distances: their mean over held-out
    images. If the place counts, the entry has `place`, too.
    """
    extractor, layers = needed_layers(config.model)

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def memory(index: int) -> dict[str, Any]:
        channels = channels_of(config.model, index)
        is_matrix = config.model.feature_scaling == "whitened"
        entry = {"mean": array(channels), "transform": array(*[channels] * (2 if is_matrix else 1))}
        if config.uses_coreset:
            entry["unit"] = array()
            if config.model.place_weight:
                entry["place"], channels = array(), channels + 2
            entry["items"] = array(config.model.memory_items[index], channels)
        return entry

    memories = tuple(map(memory, range(len(config.model.blocks))))
    return {"extractor": extractor.abstract_params(layers), "memories": memories}
