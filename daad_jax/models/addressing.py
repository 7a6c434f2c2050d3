"""Computes the address of a memory, the weights of its items, from lengths and cosines."""

import jax
import jax.numpy as jnp

from daad_jax.models.norm import inverse_root

EPSILON = 1e-12


def inverse_lengths(vectors: jax.Array) -> jax.Array:
    """Computes 1 / max(length, 1e-6) of each vector: `[..., D]` -> `[...]`."""
    return inverse_root_of_squares(jnp.sum(jnp.square(vectors), -1))


def inverse_root_of_squares(squares: jax.Array) -> jax.Array:
    """Computes 1 / max(length, 1e-6) from the squares of lengths. The shape stays the same."""
    return inverse_root(jnp.where(squares > EPSILON, squares, EPSILON))


def cosines_to_weights(cosine: jax.Array, temperature: float, shrink: float) -> jax.Array:
    """Computes the weights of the items from their cosines. Both are `[..., N]`.

    `memory.address` explains `temperature` and `shrink`.
    """
    weights = jax.nn.softmax(cosine / temperature, axis=-1)
    if shrink > 0:
        above = jax.nn.relu(weights - shrink)
        weights = above * weights / (jnp.abs(weights - shrink) + EPSILON)
        weights = weights / jnp.maximum(jnp.sum(weights, -1, keepdims=True), EPSILON)
    return weights
