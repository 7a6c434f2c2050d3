"""The three losses of the paper, as pure functions of arrays."""

import chex
import jax
import jax.numpy as jnp

EPSILON = 1e-12


def norm(difference: jax.Array) -> jax.Array:
    """Euclidean length of every example's difference: `[B, ...]` -> `[B]`, gradient 0 at 0."""
    squares = jnp.sum(jnp.square(difference).reshape(difference.shape[0], -1), axis=-1)
    return jnp.sqrt(jnp.maximum(squares, EPSILON))


def distance(a: jax.Array, b: jax.Array, kind: str) -> jax.Array:
    """E||a - b|| over a batch.

    Args:
        a: `[B, ...]`.
        b: as `a`.
        kind: "l2", the paper's plain norm (mean over examples of the Euclidean length), or
            "squared", the mean square over examples and entries.

    Returns:
        Scalar.
    """
    chex.assert_equal_shape([a, b])
    return jnp.mean(norm(a - b)) if kind == "l2" else jnp.mean(jnp.square(a - b))


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """-(E log D(x) + E log(1 - D(x^))): what the discriminator descends. Logits `[B]` -> scalar."""
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def adversarial_loss(fake_logits: jax.Array, kind: str) -> jax.Array:
    """What the generator descends. Logits `[B]` -> scalar.

    "minimax" is the paper's E log(1 - D(x^)). "non_saturating", -E log D(x^), has the same fixed
    point, and a gradient where the discriminator is sure; it is the default.
    """
    if kind == "minimax":
        return -jnp.mean(jax.nn.softplus(fake_logits))
    return jnp.mean(jax.nn.softplus(-fake_logits))
