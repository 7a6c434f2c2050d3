"""Restoration (ARNet, Fei et al. 2020), beyond DAAD: the input loses what the reconstruction must have.

A network that only copies needs to know nothing of normal images. One that must give back a colour or a
direction has to know what it looks at, and fails where it does not know.
"""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to grey
TURNS = 4


def is_turned(restore: str) -> bool:
    return "turns" in restore


def turns(restore: str) -> int:
    """How many times the generator is asked about an image that is scored."""
    return TURNS if is_turned(restore) else 1


def for_training(images: jax.Array, restore: str, places: jax.Array) -> jax.Array:
    """What the generator gets in training.

    Args:
        images: `[B, H, W, C]` in [0, 1]; square for turns.
        restore: what is lost, `config.train.restore`.
        places: int `[B]`; image i is turned by places[i] quarters.

    Returns:
        `[B, H, W, C]`.
    """
    images = _without_colour(images, restore)
    if not is_turned(restore):
        return images
    turn = jnp.mod(places, TURNS).reshape(-1, 1, 1, 1)
    turned = [jnp.where(turn == quarters, image, 0) for quarters, image in enumerate(_turned(images))]
    return jnp.sum(jnp.stack(turned), axis=0)


def for_scoring(images: jax.Array, restore: str) -> jax.Array:
    """All that the generator is asked to restore of every image: `[B, H, W, C]` -> `[T, B, H, W, C]`."""
    images = _without_colour(images, restore)
    return jnp.stack(_turned(images)) if is_turned(restore) else images[None]


def _without_colour(images: jax.Array, restore: str) -> jax.Array:
    if "grey" not in restore or images.shape[-1] == 1:
        return images
    grey = jnp.sum(images * jnp.asarray(LUMA).reshape(1, 1, 1, 3), axis=-1, keepdims=True)
    return jnp.broadcast_to(grey, images.shape)


def _turned(images: jax.Array) -> list[jax.Array]:
    """By 0 to 3 quarters, against the clock."""
    across = images.swapaxes(1, 2)
    return [images, across[:, ::-1], images[:, ::-1, ::-1], across[:, :, ::-1]]


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 `[B, H, W, C]` -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0
