"""Measures how far each image is from items that were taken from other images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.method import features
from daad_jax.scoring.memory_distances import pool_places

QUERIES_AT_ONCE = 4096


def image_distances(
    blocks: np.ndarray, owners: np.ndarray, memory: Any, item_owners: np.ndarray, pooling: int
) -> np.ndarray:
    """Computes the distance of each image from the items that a memory took from other images.

    Args:
        blocks: the blocks of one grid, as the extractor gives them, `[n, h, w, D]`.
        owners: the numbers of the images, int `[n]`.
        memory: its scaling and its `items` `[N, D]`, see `features.abstract_features`.
        item_owners: the number of each item's image, int `[N]`.
        pooling: see `pool_places`.

    Returns:
        `[n]`; 0 where no other image gave an item, so that there is nothing to compare with.
    """
    queries = np.asarray(features.scale(jnp.asarray(blocks), memory))
    maps, depth = queries.shape[:3], queries.shape[-1]
    of_blocks = np.repeat(owners, maps[1] * maps[2])
    distances = distance_to_others(queries.reshape(-1, depth), of_blocks, memory["items"], item_owners)
    has_others = np.array([(item_owners != owner).any() for owner in owners])
    distances = np.where(np.repeat(has_others, maps[1] * maps[2]), distances, 0).astype(np.float32)
    return np.asarray(pool_places(jnp.asarray(distances.reshape(maps)), pooling))


def distance_to_others(
    queries: np.ndarray, owners: np.ndarray, items: np.ndarray, item_owners: np.ndarray
) -> np.ndarray:
    """Computes the distance of each query from the nearest item of another image.

    Args:
        queries: `[n, D]`.
        owners: the number of each query's image, int `[n]`.
        items: `[N, D]`.
        item_owners: the number of each item's image, int `[N]`.

    Returns:
        `[n]`; infinite where all items are of the query's own image.
    """
    missing = -len(queries) % QUERIES_AT_ONCE  # every call has one shape, so there is one program
    padded, padded_owners = np.pad(queries, ((0, missing), (0, 0))), np.pad(owners, (0, missing))
    parts = [
        _distances(
            padded[i : i + QUERIES_AT_ONCE], padded_owners[i : i + QUERIES_AT_ONCE], items, item_owners
        )
        for i in range(0, len(padded), QUERIES_AT_ONCE)
    ]
    return np.concatenate([np.asarray(part) for part in parts])[: len(queries)]


@jax.jit
def _distances(queries: jax.Array, owners: jax.Array, items: jax.Array, item_owners: jax.Array) -> jax.Array:
    products = jnp.einsum("nd,md->nm", queries, items, precision="highest")
    of_queries, of_items = (jnp.sum(jnp.square(x), -1) for x in (queries, items))
    squares = of_queries[:, None] - 2 * products + of_items[None]
    is_other = owners[:, None] != item_owners[None]
    return jnp.sqrt(jnp.maximum(jnp.min(jnp.where(is_other, squares, jnp.inf), -1), 0))
