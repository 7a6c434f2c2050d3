"""Scaling as products with constant matrices: of feature maps, and of uint8 images as Pillow does it.

An exported graph has no Pillow, so it repeats Pillow's fixed-point arithmetic, pixel for pixel.
"""

import jax
import jax.numpy as jnp
import numpy as np

PRECISION_BITS = 22  # of Pillow's coefficients of 8-bit images
DIGIT_BITS = (14, 7, 0)  # a coefficient's three digits begin here
MOST_TAPS = 2**24 // (2**7 * 255)  # of 7 bits times 8 bits, which a float32 sum keeps exactly


def triangle_matrix(source: int, target: int) -> np.ndarray:
    """Antialiased bilinear along an axis: float64 `[target, source]`, rows of sum 1.

    Centres of pixels are at half numbers; scaling down widens the triangle by the factor.
    """
    matrix = np.zeros((target, source))
    scale = source / target
    reach = max(scale, 1.0)
    for row in range(target):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), source)
        taps = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) * (1 / reach)), 0)
        matrix[row, first:last] = taps / np.cumsum(taps)[-1]  # summed in Pillow's order
    return matrix


def along_both(rows: np.ndarray, columns: np.ndarray, images: jax.Array) -> jax.Array:
    """A matrix `[h, H]` along the rows and one `[w, W]` along the columns: `[B, H, W, C]` -> `[B, h, w, C]`.

    Two products: one einsum of three operands would begin with the matrices' outer product in runtimes
    that do not reorder it.
    """
    wide = jnp.einsum("jw,bhwc->bhjc", jnp.asarray(columns), images, precision="highest")
    return jnp.einsum("ih,bhjc->bijc", jnp.asarray(rows), wide, precision="highest")


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
    return 2 * source / target + 2 <= MOST_TAPS


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
