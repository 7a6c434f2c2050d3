"""Linear filters of images and maps as products with constant matrices: Gaussian and bilinear scaling."""

import jax
import jax.numpy as jnp
import numpy as np


def blur_matrix(size: int, sigma: float) -> np.ndarray:
    """A Gaussian along an axis of `size` pixels as a matrix `[size, size]`, edges mirrored."""
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        source = np.mod(row + offsets, 2 * size)
        np.add.at(matrix[row], np.minimum(source, 2 * size - 1 - source), taps)
    return matrix.astype(np.float32)


def smooth(images: jax.Array, sigma: float) -> jax.Array:
    """Gaussian of `sigma` pixels over `[B, H, W, C]`; unchanged for sigma 0."""
    if sigma == 0:
        return images
    rows, columns = (blur_matrix(n, sigma) for n in images.shape[1:3])
    return along_both(rows, columns, images)


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
