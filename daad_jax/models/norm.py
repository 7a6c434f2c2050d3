"""Batch normalisation as both networks use it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

MOMENTUM = 0.9  # short runs are the rule: running statistics must settle within some hundred steps
EPSILON = 1e-5


@jax.custom_jvp
def inverse_root(x: jax.Array) -> jax.Array:
    """1 / sqrt(x).

    Its derivative is one of products. JAX's divides, and XLA:CPU makes a loop of its own of a division.
    """
    return jax.lax.rsqrt(x)


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = inverse_root(*primals)
    return root, -0.5 * root * root * root * tangents[0]


class BatchNorm(nn.Module):
    """`nn.BatchNorm`: the same parameters, statistics and results, in less memory.

    Written as x * a + b its gradient needs x alone. Flax's, (x - mean) * a + bias, keeps x - mean beside x.
    """

    axis_name: str | None  # over which statistics are averaged in training
    train: bool  # statistics of the batch (and the running ones updated) instead of running ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H, W, C]`."""
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train:
            mean, square = (jnp.mean(v, axis=(0, 1, 2)) for v in (x, jnp.square(x)))
            if self.axis_name:
                mean, square = jax.lax.pmean((mean, square), self.axis_name)
            var = square - jnp.square(mean)
            var = jnp.where(var > 0, var, 0.0)  # its derivative needs no division, unlike that of maximum
            if not self.is_initializing():
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var
        factor = scale * inverse_root(var + EPSILON)
        return x * factor.reshape(1, 1, 1, -1) + (bias - mean * factor).reshape(1, 1, 1, -1)
