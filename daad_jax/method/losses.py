"""The three losses of the paper, as pure functions of arrays."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

EPSILON = 1e-12


def norm(difference: jax.Array) -> jax.Array:
    """Euclidean length of every example's difference: `[B, ...]` -> `[B]`, gradient 0 at 0."""
    squares = jnp.sum(jnp.square(difference).reshape(difference.shape[0], -1), axis=-1)
    return jnp.sqrt(jnp.maximum(squares, EPSILON))


# `config.loss.distance`: the plain norm of the paper, its mean over examples, or the mean square over
# examples and entries.
DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "squared": lambda difference: jnp.mean(jnp.square(difference)),
    "l2": lambda difference: jnp.mean(norm(difference)),
}


def distance(a: jax.Array, b: jax.Array, kind: str) -> jax.Array:
    """E||a - b|| over a batch.

    Args:
        a: `[B, ...]`.
        b: has the shape of `a`.
        kind: a name of `DISTANCES`.

    Returns:
        Scalar.
    """
    chex.assert_equal_shape([a, b])
    return DISTANCES[kind](a - b)


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The discriminator's loss, -(E log D(x) + E log(1 - D(x^))). Logits `[B]` -> scalar."""
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


# `config.loss.generator`: the paper's E log(1 - D(x^)), and -E log D(x^), which has the same fixed point and
# a gradient where the discriminator is sure. The second is the default.
GENERATOR_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "non_saturating": lambda fake_logits: jnp.mean(jax.nn.softplus(-fake_logits)),
    "minimax": lambda fake_logits: -jnp.mean(jax.nn.softplus(fake_logits)),
}


def adversarial_loss(fake_logits: jax.Array, kind: str) -> jax.Array:
    """The generator's adversarial loss, `kind` of `GENERATOR_LOSSES`. Logits `[B]` -> scalar."""
    return GENERATOR_LOSSES[kind](fake_logits)
