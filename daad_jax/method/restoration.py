"""Degrades images, so that the generator must restore them (ARNet, Fei et al. 2020). DAAD has no such task.

A network that only copies its input need not know normal images. A network that must restore a colour or a
direction has to recognise the object in the image, and the network fails on unknown objects.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from daad_jax.errors import UserError, did_you_mean

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to grey


def _without_colour(images: jax.Array) -> list[jax.Array]:
    """Returns one grey copy, with the same number of channels."""
    if images.shape[-1] == 1:
        return [images]
    grey = jnp.sum(images * jnp.asarray(LUMA).reshape(1, 1, 1, 3), axis=-1, keepdims=True)
    return [jnp.broadcast_to(grey, images.shape)]


def _quarter_turns(images: jax.Array) -> list[jax.Array]:
    """Returns four copies, turned counter-clockwise by 0 to 3 quarters."""
    across = images.swapaxes(1, 2)
    return [images, across[:, ::-1], images[:, ::-1, ::-1], across[:, :, ::-1]]


@dataclass(frozen=True)
class Task:
    """A restoration task.

    In training, the network restores one copy of each image, and the copies take turns. In scoring, the
    network restores all copies.

    Attributes:
        degrade: turns images `[B, H, W, C]` into a list of `copies` degraded batches of the same shape.
        copies: the number of degraded copies.
        needs_square: whether H must equal W.
    """

    degrade: Callable[[jax.Array], list[jax.Array]]
    copies: int = 1
    needs_square: bool = False


# `config.train.restore` joins names of this table with "_", for instance "grey_turns". So a name has no "_".
# To add a task, add an entry here.
TASKS = {
    "grey": Task(_without_colour),
    "turns": Task(_quarter_turns, copies=4, needs_square=True),
}


def tasks_of(restore: str) -> list[Task]:
    """Returns the tasks that `config.train.restore` names, in the order of `TASKS`; none for "".

    Raises:
        UserError: a name is unknown, a name comes twice, or the names have another order.
    """
    names = restore.split("_") if restore else []
    for name in names:
        if name not in TASKS:
            raise UserError(
                f"config.train.restore = {restore!r}: no task {name!r}; {did_you_mean(name, TASKS)}"
            )
    if names != [name for name in TASKS if name in names]:
        raise UserError(
            f"config.train.restore = {restore!r}: name each task once, in the order {'_'.join(TASKS)}"
        )
    return [TASKS[name] for name in names]


def copy_count(restore: str) -> int:
    """Returns the number of degraded copies of an image that the network restores in scoring."""
    return math.prod(task.copies for task in tasks_of(restore))


def degraded_copies(images: jax.Array, restore: str) -> list[jax.Array]:
    """Returns all degraded copies of images `[B, H, W, C]` in [0, 1]; without a task, only the images."""
    copies = [images]
    for task in tasks_of(restore):
        copies = [degraded for copy in copies for degraded in task.degrade(copy)]
    return copies


def for_training(images: jax.Array, restore: str, places: jax.Array) -> jax.Array:
    """Returns the generator's input in training.

    Args:
        images: the images, `[B, H, W, C]` in [0, 1].
        restore: the value of `config.train.restore`.
        places: the number of the copy for each image, modulo the number of copies; int `[B]`.

    Returns:
        One degraded copy of each image, `[B, H, W, C]`.
    """
    copies = degraded_copies(images, restore)
    if len(copies) == 1:
        return copies[0]
    number = jnp.mod(places, len(copies)).reshape(-1, 1, 1, 1)
    return jnp.sum(jnp.stack([jnp.where(number == i, copy, 0) for i, copy in enumerate(copies)]), axis=0)


def for_scoring(images: jax.Array, restore: str) -> jax.Array:
    """Returns the T copies of each image to restore in scoring: `[B, H, W, C]` -> `[T, B, H, W, C]`."""
    return jnp.stack(degraded_copies(images, restore))


def to_unit(images: jax.Array) -> jax.Array:
    """Converts uint8 or uint16 `[B, H, W, C]` to float32 in [0, 1]."""
    return images.astype(jnp.float32) / float(jnp.iinfo(images.dtype).max)
