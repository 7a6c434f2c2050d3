"""Restoration tasks (ARNet, Fei et al. 2020), beyond DAAD: the generator must restore a degraded input.

A network that only copies its input need not know normal images. A network that must give back a colour or a
direction has to recognise what the image shows, and fails on images that it does not know.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from daad_jax.errors import UserError, did_you_mean

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to grey


def _without_colour(images: jax.Array) -> list[jax.Array]:
    """One grey copy, with as many channels as before."""
    if images.shape[-1] == 1:
        return [images]
    grey = jnp.sum(images * jnp.asarray(LUMA).reshape(1, 1, 1, 3), axis=-1, keepdims=True)
    return [jnp.broadcast_to(grey, images.shape)]


def _quarter_turns(images: jax.Array) -> list[jax.Array]:
    """Copies turned by 0 to 3 quarters, counter-clockwise."""
    across = images.swapaxes(1, 2)
    return [images, across[:, ::-1], images[:, ::-1, ::-1], across[:, :, ::-1]]


@dataclass(frozen=True)
class Task:
    """A restoration task.

    `degrade` turns images `[B, H, W, C]` into `copies` degraded ones of the same shape. In training every
    image is one of the copies, in turn; in scoring all copies are restored. `needs_square`: H must equal W.
    """

    degrade: Callable[[jax.Array], list[jax.Array]]
    copies: int = 1
    needs_square: bool = False


# `config.train.restore` joins names of this table by "_", for instance "grey_turns". Another task is another
# entry here; a name has no "_".
TASKS = {
    "grey": Task(_without_colour),
    "turns": Task(_quarter_turns, copies=4, needs_square=True),
}


def tasks_of(restore: str) -> list[Task]:
    """The tasks that `config.train.restore` names, in the order of `TASKS`; none for "".

    Raises:
        UserError: an unknown name, a name twice, or names in another order.
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
    """How many degraded copies of an image are restored when the image is scored."""
    return math.prod(task.copies for task in tasks_of(restore))


def degraded_copies(images: jax.Array, restore: str) -> list[jax.Array]:
    """All degraded copies of images `[B, H, W, C]` in [0, 1]; the images themselves without a task."""
    copies = [images]
    for task in tasks_of(restore):
        copies = [degraded for copy in copies for degraded in task.degrade(copy)]
    return copies


def for_training(images: jax.Array, restore: str, places: jax.Array) -> jax.Array:
    """The generator's input in training.

    Args:
        images: `[B, H, W, C]` in [0, 1].
        restore: `config.train.restore`.
        places: int `[B]`; image i is the copy of number `places[i]`, modulo the number of copies.

    Returns:
        `[B, H, W, C]`.
    """
    copies = degraded_copies(images, restore)
    if len(copies) == 1:
        return copies[0]
    number = jnp.mod(places, len(copies)).reshape(-1, 1, 1, 1)
    return jnp.sum(jnp.stack([jnp.where(number == i, copy, 0) for i, copy in enumerate(copies)]), axis=0)


def for_scoring(images: jax.Array, restore: str) -> jax.Array:
    """The generator's inputs in scoring, all T copies of every image: `[B, H, W, C]` -> `[T, B, H, W, C]`."""
    return jnp.stack(degraded_copies(images, restore))


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 or uint16 `[B, H, W, C]` -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / float(jnp.iinfo(images.dtype).max)
