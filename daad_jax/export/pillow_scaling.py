"""Scales uint8 images to exactly Pillow's pixels, for exported graphs, which cannot call Pillow."""

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.scoring.filters import triangle_matrix

PRECISION_BITS = 22  # Pillow's coefficients for 8-bit images are integers / 2**22 (Pillow's Resample.c)
DIGIT_BITS = (14, 7, 0)  # the first bits of a coefficient's three digits
MAX_TAPS = 2**24 // (2**7 * 255)  # a float32 sum of this many products of 7 and 8 bits is exact


def bilinear(images: jax.Array, height: int, width: int, rows_first: bool) -> jax.Array:
    """Scales images as Pillow's antialiased bilinear filter does.

    Args:
        images: uint8 `[B, h, w, C]`.
        height: the height of the result.
        width: the width of the result.
        rows_first: whether the height is scaled before the width. Each pass rounds, so the order changes
            pixels. Pillow scaled the width first until version 13, which chooses the order by the sizes.

    Returns:
        uint8 `[B, height, width, C]`.
    """
    passes = [("jw,bhwc->bhjc", images.shape[2], width), ("ih,bhwc->biwc", images.shape[1], height)]
    for product, source, target in reversed(passes) if rows_first else passes:
        if source != target:
            images = _fixed_point(product, source, target, images)
    return images


def can_scale(source: int, target: int) -> bool:
    """Whether `bilinear` is exact for these lengths in pixels: up to about 256 times smaller."""
    return 2 * source / target + 2 <= MAX_TAPS


def _fixed_point(product: str, source: int, target: int, images: jax.Array) -> jax.Array:
    """Scales one axis, and rounds to uint8, as each of Pillow's two passes does.

    A sum of 22-bit coefficients times 8-bit pixels does not fit into float32. Each coefficient is therefore
    split into digits of 7 or 8 bits. The sum over one digit fits, even with bfloat16 products, so the result
    is exact on every device.
    """
    coefficients = np.floor(triangle_matrix(source, target) * 2**PRECISION_BITS + 0.5).astype(np.int64)
    pixels = images.astype(jnp.float32)
    total = jnp.asarray(2 ** (PRECISION_BITS - 1), jnp.int32)
    for begin in DIGIT_BITS:
        digit = coefficients >> begin if begin == DIGIT_BITS[0] else (coefficients >> begin) & 127
        part = jnp.einsum(product, jnp.asarray(digit, jnp.float32), pixels)
        total = total + part.astype(jnp.int32) * 2**begin
    return jax.lax.div(total, jnp.full_like(total, 2**PRECISION_BITS)).astype(jnp.uint8)
