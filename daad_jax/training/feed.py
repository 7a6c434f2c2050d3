"""Brings the training batches to the devices: whole images, or plans for images that lie there already."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data.batches import BatchPlan, batch_plans, group_batches, prefetch, train_batches
from daad_jax.data.samples import Split
from daad_jax.runtime.devices import DeviceGroup


def device_batches(config: Config, group: DeviceGroup, split: Split, first_step: int) -> Iterator[Any]:
    """Yields the batch of every call from `first_step` on. Batches are on the devices ahead of time.

    Args:
        config: the configuration of the run.
        group: the devices.
        split: the training images, uint8 or uint16 `[N, H, W, C]`.
        first_step: the steps that were done before.

    Yields:
        `[b, H, W, C]` of the images' type on one device, `[n, b/n, H, W, C]` on n; with
        K = `train.steps_per_call` above 1, K batches, as `[K, b, ...]` or `[n, K, b/n, ...]`.
    """
    data, seed, batch_size = config.data, config.seed, config.train.batch_size
    process, steps_per_call = (jax.process_index(), jax.process_count()), config.train.steps_per_call
    batch_axis = 0 if steps_per_call == 1 else 1
    batches: Iterator[Any]
    put: Callable[[Any], Any]
    if group.fits_resident(int(np.prod(split.images.shape)) * split.images.dtype.itemsize):
        gather = functools.partial(gather_batch, config=data)
        put = group.put_resident(np.asarray(split.images[:]), gather, batch_axis)
        batches = batch_plans(len(split.images), data, seed, batch_size, first_step)
    else:
        put = functools.partial(group.put, batch_axis=batch_axis)
        batches = train_batches(split, data, seed, batch_size, first_step, process)
    return prefetch(batches if steps_per_call == 1 else group_batches(batches, steps_per_call), put)


def gather_batch(images: jax.Array, plan: BatchPlan, config: DataConfig) -> jax.Array:
    """Makes the batch of a plan on the device. It equals `batches.augment` of the same images to the bit.

    Args:
        images: uint8 or uint16 `[N, H, W, C]`.
        plan: its arrays begin with `[...]`, of any shape.
        config: its augmentation is applied.

    Returns:
        `[..., H, W, C]`, of the same type.
    """
    chosen = plan.chosen.reshape(-1)
    if not config.augments:
        batch = images[chosen]
    else:
        flips, starts = (jnp.reshape(x, (-1, 2)) for x in (plan.flips, plan.starts))
        rows, columns = (
            _source_pixels(flips[:, axis], starts[:, axis], images.shape[1 + axis], config.shift)
            for axis in (0, 1)
        )
        batch = images[chosen.reshape(-1, 1, 1), rows[:, :, None], columns[:, None, :]]
    return batch.reshape(*plan.chosen.shape, *images.shape[1:])


def _source_pixels(flip: jax.Array, start: jax.Array, size: int, reach: int) -> jax.Array:
    """The row (or column) that every row of the result is taken from: `[b]`, `[b]` -> `[b, size]`."""
    at = start[:, None] + jnp.arange(size)[None]  # in the image with `reach` rows of edge on either side
    at = jnp.where(flip[:, None] < 0, size + 2 * reach - 1 - at, at)
    return jnp.clip(at - reach, 0, size - 1)
