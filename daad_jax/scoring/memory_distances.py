"""The distance of an image from memories whose items were taken from the data: R and its map."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config, ScoreConfig
from daad_jax.extractors.convolutions import select_implementation
from daad_jax.method import features
from daad_jax.models.layers import Implementation
from daad_jax.models.memory import read
from daad_jax.scoring.filters import along_both, smooth, triangle_matrix
from daad_jax.scoring.power_mean import power_mean

GROUP = 50  # items
MIN_PLACES = 128  # of an image that is compared alone
SMALLEST_UNIT = 1e-6  # of a memory's distances: equal images have no distance from each other


def nearest_distance(
    queries: jax.Array, items: Any, count: int, implementation: Implementation = "auto"
) -> jax.Array:
    """Computes the mean distance of queries `[B, h, w, D]` from their `count` nearest items: `[B, h, w]`.

    Products find the nearest items. Differences then give the distances, because a distance from products
    loses its digits where an item is near. `implementation`: see `select_implementation`; it matters where
    one item is read.
    """
    items = jnp.asarray(items)  # in an exported program, the items are constants
    if count > 1:
        _, chosen = jax.lax.top_k(-_order(queries, items), count)
    elif len(items) <= GROUP:
        chosen = jnp.argmin(_order(queries, items), -1, keepdims=True)
    else:
        chosen = select_implementation(
            implementation,
            _nearest_by_groups,
            lambda queries, items: jnp.argmin(_order(queries, items), -1, keepdims=True),
            queries,
            items,
        )
    differences = queries[..., None, :] - jnp.take(items, chosen, axis=0, mode="clip")
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(differences), -1)), -1)


def _order(queries: jax.Array, items: jax.Array) -> jax.Array:
    """Returns |m|^2 - 2 q m, which sorts the items m as their distances from q do: `[B, h, w, N]`."""
    products = jnp.einsum("bhwd,nd->bhwn", queries, items, precision="highest")
    return jnp.sum(jnp.square(items), -1).reshape(1, 1, 1, -1) - 2 * products


def _nearest_by_groups(queries: jax.Array, items: jax.Array) -> jax.Array:
    """The index of the nearest item, `[B, h, w, D]` -> `[B, h, w, 1]`, fast on a CPU.

    XLA:CPU finds minima several times faster than their places, if the places of the map are the last axis.
    So the first step finds the group with the nearest item, and the second one looks only into that group.
    Maps of many places come one by one, which keeps the products in the processor's cache.
    """
    rows, columns, depth = queries.shape[1:]
    squares, missing = jnp.sum(jnp.square(items), -1), -len(items) % GROUP
    if missing:  # such items are never the nearest
        items = jnp.pad(items, ((0, missing), (0, 0)))
        squares = jnp.pad(squares, (0, missing), constant_values=jnp.inf)

    def find(points: jax.Array) -> jax.Array:  # [P, D] -> [P]
        products = jnp.einsum("nd,pd->np", items, points, precision="highest")
        order = (squares[:, None] - 2 * products).reshape(-1, GROUP, points.shape[0])
        group = jnp.argmin(jnp.min(order, axis=1), axis=0)
        inside = jnp.take_along_axis(order, group[None, None], axis=0, mode="promise_in_bounds")[0]
        return group * GROUP + jnp.argmin(inside, axis=0)

    if rows * columns < MIN_PLACES:
        chosen = find(queries.reshape(-1, depth))
    else:
        chosen = jax.lax.map(find, queries.reshape(-1, rows * columns, depth))
    return chosen.reshape(-1, rows, columns, 1)


def soft_distance(queries: jax.Array, items: jax.Array, temperature: float) -> jax.Array:
    """The distance of queries `[..., D]` from what the paper's read makes of them: `[...]`."""
    expressed, _ = read(queries, items, temperature)
    return jnp.sqrt(jnp.sum(jnp.square(queries - expressed), -1))


def make_memory_maps(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Any, jax.Array], tuple[jax.Array, ...]]:
    """The function from a state's frozen features and images `[B, H, W, C]` to a map of distances per memory.

    A map is `[B, h, w]`, with one value a block.
    """
    model, read_blocks = config.model, features.make_block_reader(config, implementation)

    def memory_maps(frozen: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        maps = []
        for blocks, memory in zip(read_blocks(frozen["extractor"], images), frozen["memories"]):
            queries = features.scale(blocks, memory)
            if model.nearest:
                maps.append(nearest_distance(queries, memory["items"], model.nearest, implementation))
            else:
                maps.append(soft_distance(queries, memory["items"], model.temperature))
        return tuple(maps)

    return memory_maps


def pool_places(distances: jax.Array, pooling: int) -> jax.Array:
    """One distance an image, from the distances of its blocks: `[B, h, w]` -> `[B]`.

    The power mean of the squares with exponent `pooling`: 1 counts all places the same, 8 counts nearly only
    the worst ones.
    """
    return jnp.sqrt(power_mean(jnp.square(distances), pooling))


def join_memories(
    maps: Sequence[jax.Array], units: Sequence[Any], score: ScoreConfig, size: tuple[int, int], sigma: float
) -> tuple[jax.Array, jax.Array]:
    """R `[B]` and its map `[B, H, W]`, from the maps of distances of all memories.

    Both are weighted means over the memories of distances in units of normal images.

    Args:
        maps: what `make_memory_maps` makes.
        units: the mean distance of normal images from each memory.
        score: its pooling, weights and heat_weights are used.
        size: H and W.
        sigma: the standard deviation of the Gaussian over the map, in pixels.
    """
    ratios = [distances / unit for distances, unit in zip(maps, units)]
    r = _weighted_mean(lambda x: pool_places(x, score.pooling), score.weights, ratios)
    full = _weighted_mean(lambda x: enlarge(x, size), score.heat_weights, ratios)
    return r, smooth(full[..., None], sigma)[..., 0]


def enlarge(distances: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Scales maps up bilinearly: `[B, h, w]` -> `[B, H, W]`."""
    rows, columns = (
        triangle_matrix(source, target).astype(np.float32)
        for source, target in zip(distances.shape[1:], size)
    )
    return along_both(rows, columns, distances[..., None])[..., 0]


def _weighted_mean(
    function: Callable[[jax.Array], jax.Array], weights: Sequence[float], ratios: Sequence[jax.Array]
) -> jax.Array:
    """The mean of `function` over the memories. What has weight 0 is not computed."""
    chosen = weights or (1.0,) * len(ratios)
    terms = [weight * function(ratio) for weight, ratio in zip(chosen, ratios) if weight]
    return sum(terms[1:], terms[0]) / float(sum(chosen))
