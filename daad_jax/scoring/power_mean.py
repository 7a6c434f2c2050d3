"""The power mean, which makes one distance of an image from the distances of its places."""

import jax
import jax.numpy as jnp

EPSILON = 1e-12


def power_mean(values: jax.Array, exponent: int) -> jax.Array:
    """(mean v^p)^(1/p) over places, from the mean (p = 1) towards the maximum: `[B, H, W]` >= 0 -> `[B]`."""
    largest = jnp.maximum(jnp.max(values, axis=(1, 2), keepdims=True), EPSILON)
    mean = jnp.mean(jax.lax.integer_pow(values / largest, exponent), axis=(1, 2))
    return largest[:, 0, 0] * mean ** (1 / exponent)
