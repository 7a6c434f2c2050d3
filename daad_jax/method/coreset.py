"""Chooses the items of a memory among the blocks of the data, so that no normal block is far from an item.

The choice is called a coreset. The method is greedy k-centre (Gonzalez 1985), as in PatchCore (Roth et al.,
CVPR 2022): the next item is the block that is farthest from all items so far.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Distances are compared after a random projection to this many dimensions, which changes distances by a few
# percent (Johnson and Lindenstrauss). PatchCore does the same.
PROJECTED_DIMENSIONS = 128


def choose_coreset(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Chooses items among points by greedy k-centre.

    Args:
        points: the points to choose from, `[N, D]`.
        count: the number of items, at most N.
        seed: draws the first item and the projection.

    Returns:
        The indices of the items, `[count]`, in the order of the choice. The first M indices are therefore the
        coreset of M items.
    """
    rng = np.random.default_rng([seed, 11])
    if points.shape[1] > PROJECTED_DIMENSIONS:
        projection = rng.standard_normal((points.shape[1], PROJECTED_DIMENSIONS)) / PROJECTED_DIMENSIONS**0.5
        points = points @ projection.astype(np.float32)
    first = int(rng.integers(len(points)))
    return np.asarray(_greedy(points, first, count))


@functools.partial(jax.jit, static_argnames="count")
def _greedy(points: jax.Array, first: jax.Array, count: int) -> jax.Array:
    def add(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        chosen, nearest = carry
        # Differences, not products: a point that is an item already must have distance 0.
        squares = jnp.sum(jnp.square(points - points[chosen[i - 1]][None]), axis=-1)
        nearest = jnp.minimum(nearest, squares)
        return chosen.at[i].set(jnp.argmax(nearest).astype(jnp.int32)), nearest

    chosen = jnp.zeros(count, jnp.int32).at[0].set(first)
    return jax.lax.fori_loop(1, count, add, (chosen, jnp.full(len(points), jnp.inf)))[0]
