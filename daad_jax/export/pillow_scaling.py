"""Pillow's bilinear scaling of uint8 images, pixel for pixel, for exported graphs, which have no Pillow."""

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.scoring.filters import triangle_matrix

PRECISION_BITS = 22  # of Pillow's coefficients of 8-bit images
DIGIT_BITS = (14, 7, 0)  # a coefficient's three digits begin here
MAX_TAPS = 2**24 // (2**7 * 255)  # of 7 bits times 8 bits, which a float32 sum keeps exactly


def bilinear(images: jax.Array, height: int, width: int, rows_first: bool) -> jax.Array:
    """Antialiased bilinear as Pillow does it: uint8 `[B, h, w, C]` -> uint8 `[B, height, width, C]`.

    Args:
        images: to scale.
        height: of the result.
        width: of the result.
        rows_first: scale the rows' number before the columns'. Each pass rounds, so the order shows;
            Pillow always did the columns first before version 13, which chooses by the sizes.
    """
    passes = [("jw,bhwc->bhjc", images.shape[2], width), ("ih,bhwc->biwc", images.shape[1], height)]
    for product, source, target in reversed(passes) if rows_first else passes:
        if source != target:
            images = _fixed_point(product, source, target, images)
    return images


def can_scale(source: int, target: int) -> bool:
    """Whether `bilinear` is exact: not beyond a factor of 256 down."""
    return 2 * source / target + 2 <= MAX_TAPS


def _fixed_point(product: str, source: int, target: int, images: jax.Array) -> jax.Array:
    """One of Pillow's two passes, with its rounding to uint8.

    The integer sums of 22-bit coefficients times 8-bit pixels do not fit into float32. Those of each
    digit of 7 or 8 bits do, in bfloat16 products too, so no device rounds and none needs int32 products.
    """
    coefficients = np.floor(triangle_matrix(source, target) * 2**PRECISION_BITS + 0.5).astype(np.int64)
    pixels = images.astype(jnp.float32)
    total = jnp.asarray(2 ** (PRECISION_BITS - 1), jnp.int32)
    for begin in DIGIT_BITS:
        digit = coefficients >> begin if begin == DIGIT_BITS[0] else (coefficients >> begin) & 127
        part = jnp.einsum(product, jnp.asarray(digit, jnp.float32), pixels)
        total = total + part.astype(jnp.int32) * 2**begin
    return jax.lax.div(total, jnp.full_like(total, 2**PRECISION_BITS)).astype(jnp.uint8)
