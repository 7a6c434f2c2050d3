"""Batch normalisation of both networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

MOMENTUM = 0.9  # most runs are short, so the running statistics must settle within a few hundred steps
EPSILON = 1e-5


@jax.custom_jvp
def inverse_root(x: jax.Array) -> jax.Array:
    """Computes 1 / sqrt(x).

    The derivative uses products only. JAX's own derivative contains a division, and XLA:CPU compiles a
    division into a loop of its own.
    """
    return jax.lax.rsqrt(x)


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = inverse_root(*primals)
    return root, -0.5 * root * root * root * tangents[0]


class BatchNorm(nn.Module):
    """Batch norm that needs less memory than `nn.BatchNorm`, with its parameters, statistics and results.

    Here the result is computed as x * a + b, whose gradient needs only x. Flax computes
    (x - mean) * a + bias, whose gradient keeps x - mean in memory beside x.
    """

    axis_name: str | None  # the mapped axis over which training averages the statistics
    train: bool  # see `Generator.__call__`
    packed: int = 1  # the factor by which the map is packed (`packing.pack`)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises every channel: `[B, H, W, C]`, or packed `[B, h, w, packed^2 C]`, to the same shape."""
        places = self.packed**2
        channels = (x.shape[-1] // places,)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train:
            mean, square = (jnp.mean(v, axis=(0, 1, 2)) for v in (x, jnp.square(x)))
            if places > 1:
                mean, square = (jnp.mean(v.reshape(places, -1), axis=0) for v in (mean, square))
            if self.axis_name:
                mean, square = jax.lax.pmean((mean, square), self.axis_name)
            var = square - jnp.square(mean)
            var = jnp.where(var > 0, var, 0.0)  # unlike jnp.maximum, its derivative does not divide
            if not self.is_initializing():
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var
        factor = scale * inverse_root(var + EPSILON)

        def spread(values: jax.Array) -> jax.Array:
            return (jnp.tile(values, places) if places > 1 else values).reshape(1, 1, 1, -1)

        return x * spread(factor) + spread(bias - mean * factor)
