"""The distance of a block from the items that other images gave."""

import jax
import jax.numpy as jnp
import numpy as np

QUERIES_AT_ONCE = 4096


def distance_to_others(
    queries: np.ndarray, owners: np.ndarray, items: np.ndarray, item_owners: np.ndarray
) -> np.ndarray:
    """The distance of each query from the nearest item of another image.

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
    lengths = (jnp.sum(jnp.square(x), -1) for x in (queries, items))
    of_queries, of_items = lengths
    squares = of_queries[:, None] - 2 * products + of_items[None]
    is_other = owners[:, None] != item_owners[None]
    return jnp.sqrt(jnp.maximum(jnp.min(jnp.where(is_other, squares, jnp.inf), -1), 0))
