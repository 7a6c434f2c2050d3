"""Batches of images that lie on the device: only what they are to be made of travels."""

import jax
import jax.numpy as jnp

from daad_jax.config import DataConfig
from daad_jax.data.batches import BatchPlan


def take(images: jax.Array, order: BatchPlan, config: DataConfig) -> jax.Array:
    """The batch that `batches.augment` makes of `images[order.chosen]`, to the bit.

    Args:
        images: uint8 `[N, H, W, C]`.
        order: of `[...]`, any shape.
        config: its augmentation is applied.

    Returns:
        uint8 `[..., H, W, C]`.
    """
    chosen = order.chosen.reshape(-1)
    if not config.augments:
        out = images[chosen]
    else:
        flips, starts = (jnp.reshape(x, (-1, 2)) for x in (order.flips, order.starts))
        rows, columns = (
            _sources(flips[:, axis], starts[:, axis], images.shape[1 + axis], config.shift) for axis in (0, 1)
        )
        out = images[chosen.reshape(-1, 1, 1), rows[:, :, None], columns[:, None, :]]
    return out.reshape(*order.chosen.shape, *images.shape[1:])


def _sources(flip: jax.Array, start: jax.Array, size: int, reach: int) -> jax.Array:
    """Where every row (or column) of a result comes from: `[b]`, `[b]` -> `[b, size]`."""
    at = start[:, None] + jnp.arange(size)[None]  # in the image with `reach` rows of edge on either side
    at = jnp.where(flip[:, None] < 0, size + 2 * reach - 1 - at, at)
    return jnp.clip(at - reach, 0, size - 1)
