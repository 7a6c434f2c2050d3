"""The three losses of the paper, as pure functions of arrays."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

EPSILON = 1e-12


def norm(difference: jax.Array) -> jax.Array:
    """Returns the Euclidean length of every difference: `[B, ...]` -> `[B]`. The gradient at 0 is 0."""
    squares = jnp.sum(jnp.square(difference).reshape(difference.shape[0], -1), axis=-1)
    return jnp.sqrt(jnp.maximum(squares, EPSILON))


# The values of `config.loss.distance`. "squared" is the mean square over examples and entries. "l2" is the
# plain norm of the paper, averaged over examples.
DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "squared": lambda difference: jnp.mean(jnp.square(difference)),
    "l2": lambda difference: jnp.mean(norm(difference)),
}


def distance(a: jax.Array, b: jax.Array, kind: str) -> jax.Array:
    """Computes the distance E||a - b|| over a batch.

    Args:
        a: the first examples, `[B, ...]`.
        b: the other examples, of the same shape as `a`.
        kind: a name of `DISTANCES`.

    Returns:
        The distance, a scalar.
    """
    chex.assert_equal_shape([a, b])
    return DISTANCES[kind](a - b)


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Computes the discriminator's loss, -(E log D(x) + E log(1 - D(x^))). Logits `[B]` -> scalar."""
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


# The values of `config.loss.generator`. "minimax" is the paper's E log(1 - D(x^)). "non_saturating" is
# -E log D(x^), the default: this loss has the same fixed point, and a gradient also where the discriminator
# is sure.
GENERATOR_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "non_saturating": lambda fake_logits: jnp.mean(jax.nn.softplus(-fake_logits)),
    "minimax": lambda fake_logits: -jnp.mean(jax.nn.softplus(fake_logits)),
}


def adversarial_loss(fake_logits: jax.Array, kind: str) -> jax.Array:
    """Computes the generator's adversarial loss, `kind` of `GENERATOR_LOSSES`. Logits `[B]` -> scalar."""
    return GENERATOR_LOSSES[kind](fake_logits)
