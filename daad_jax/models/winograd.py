"""4x4 convolutions with stride 2 from 9/16 of the multiplications (Winograd's minimal filtering, F(2, 2)).

The fine map gets a border of zeros and is cut into cells of 2x2 pixels. The convolution with 4x4 taps and
stride 2 then becomes a convolution with 2x2 taps and stride 1 over cells. Along one axis, let p be three
neighbouring cells, k the two taps and y two neighbouring outputs. Three products give both outputs:

    m_1 = (p_0 - p_1) . k_0         y_0 = m_1 + m_2
    m_2 = p_1 . (k_0 + k_1)         y_1 = m_2 - m_3
    m_3 = (p_1 - p_2) . k_1

Over two axes, nine matrix products give four outputs, where the direct form needs sixteen. The computation is
trilinear in the fine map, the kernel and the coarse map. The transposed convolution and the kernel's gradient
therefore use the same nine products with the roles exchanged. Compared with the direct form, the method only
adds sums and differences of two numbers, so float32 results stay as accurate.

In the names below, each of the nine products multiplies two *factors*: the sums and differences on the right.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

# Both limits were measured: below them the sums cost more time than the saved multiplications.
MIN_COARSE_PIXELS = 512  # over all images of the batch; fewer pixels do not repay the kernel's sums
MIN_PRODUCTS_PER_SUM = 5  # `is_faster` compares the multiplications with the additions over the maps


def is_faster(fine_shape: tuple[int, ...], coarse_channels: int, dtype: jnp.dtype) -> bool:
    """Tells whether this method is possible, faster than the direct form and as accurate.

    Args:
        fine_shape: shape `[B, H, W, C]` of the map with the full resolution.
        coarse_channels: the number of channels of the map with half the resolution.
        dtype: the type of the products. bfloat16 has too few digits for the sums.
    """
    batch, height, width, channels = fine_shape
    if not isinstance(batch, int):  # an exported program, which takes any number of images
        return False
    if height % 4 or width % 4 or batch * height * width < 4 * MIN_COARSE_PIXELS or dtype != jnp.float32:
        return False
    return channels * coarse_channels >= MIN_PRODUCTS_PER_SUM * (4 * channels + coarse_channels)


def down(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
    """Computes a convolution with stride 2 and padding SAME.

    Args:
        x: `[B, H, W, C]`; 4 divides H and W.
        kernel: `[4, 4, C, F]`, or `[4, 4, F, C]` if `transposed`.
        transposed: True if the kernel belongs to the transposed convolution whose adjoint this call computes.

    Returns:
        `[B, H / 2, W / 2, F]`.
    """
    kernels = _kernel_to_factors(kernel, transposed)
    batch, height, width, _ = x.shape
    products = [
        cells @ (k.swapaxes(1, 2) if transposed else k) for cells, k in zip(_fine_to_factors(x), kernels)
    ]
    return _products_to_coarse([m.reshape(3, batch, height // 4, width // 4, -1) for m in products])


def up(x: jax.Array, kernel: jax.Array, transposed: bool = True) -> jax.Array:
    """Computes a transposed convolution with stride 2 and padding SAME: the adjoint of `down`.

    Args:
        x: `[B, h, w, F]`; 2 divides h and w.
        kernel: `[4, 4, F, C]` if `transposed`, or `[4, 4, C, F]`.
        transposed: False if the kernel belongs to the convolution whose adjoint this call computes.

    Returns:
        `[B, 2h, 2w, C]`.
    """
    kernels = _kernel_to_factors(kernel, transposed)
    batch, height, width, _ = x.shape
    products = [
        pixels @ (k if transposed else k.swapaxes(1, 2)) for pixels, k in zip(_coarse_to_factors(x), kernels)
    ]
    return _products_to_fine([m.reshape(3, batch, height // 2, width // 2, -1) for m in products])


def kernel_gradient(fine: jax.Array, coarse: jax.Array, transposed: bool) -> jax.Array:
    """Computes the kernel's gradient of `down` or `up` from the fine and the coarse map.

    One of the maps is the input of the convolution, the other the gradient of its output.

    Args:
        fine: `[B, H, W, C]`.
        coarse: `[B, H / 2, W / 2, F]`.
        transposed: True if the kernel belongs to a transposed convolution.

    Returns:
        `[4, 4, F, C]` if `transposed`, else `[4, 4, C, F]`.
    """
    factors = zip(_fine_to_factors(fine), _coarse_to_factors(coarse))
    products = [b.swapaxes(1, 2) @ a if transposed else a.swapaxes(1, 2) @ b for a, b in factors]
    return _products_to_kernel(products, transposed)


# The nine products are three batches of three, which compile faster than nine separate products.


def _fine_to_factors(x: jax.Array) -> list[jax.Array]:
    """Computes the factors of the fine map: `[B, H, W, C]` -> three `[3, B H / 4 W / 4, 4C]`."""
    batch, height, width, channels = x.shape
    # The axes of a cell's pixels stay apart until the end. So XLA reads and writes whole rows of channels.
    pixels = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    cells = pixels.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels)
    p0, p1, p2 = _every_other(cells, 3, height // 4, 1)

    def combine(row: jax.Array) -> jax.Array:
        q0, q1, q2 = (q.transpose(0, 1, 3, 2, 4, 5) for q in _every_other(row, 3, width // 4, 3))
        return jnp.stack([q0 - q1, q1, q1 - q2]).reshape(3, -1, 4 * channels)

    return [combine(row) for row in (p0 - p1, p1, p1 - p2)]


def _products_to_fine(products: list[jax.Array]) -> jax.Array:
    """Computes the transpose of `_fine_to_factors` from three `[3, B, H / 4, W / 4, 4C]`."""

    def merge(three: Iterable[jax.Array], axis: int) -> jax.Array:
        m1, m2, m3 = three
        even = _pad_with_zeros(m1, axis, 0, 1) - _pad_with_zeros(m3, axis, 1, 0)
        odd = _pad_with_zeros(m2 + m3 - m1, axis, 0, 1)
        both = jnp.stack([even, odd], axis=axis + 1)
        shape = [*m1.shape]
        shape[axis] = 2 * shape[axis] + 2
        return jax.lax.slice_in_dim(both.reshape(shape), 0, shape[axis] - 1, axis=axis)

    return _cells_to_pixels(merge([merge(row, 2) for row in products], 1))


def _coarse_to_factors(y: jax.Array) -> list[jax.Array]:
    """Computes the factors of the coarse map: `[B, h, w, F]` -> three `[3, B h / 2 w / 2, F]`."""
    y0, y1 = _every_other(y, 2, y.shape[1] // 2, 1)
    columns = y.shape[2] // 2

    def combine(row: jax.Array) -> jax.Array:
        z0, z1 = _every_other(row, 2, columns, 2)
        return jnp.stack([z0, z0 + z1, -z1]).reshape(3, -1, y.shape[-1])

    return [combine(row) for row in (y0, y0 + y1, -y1)]


def _products_to_coarse(products: list[jax.Array]) -> jax.Array:
    """Computes the transpose of `_coarse_to_factors` from three `[3, B, h / 2, w / 2, F]`."""

    def merge(m1: jax.Array, m2: jax.Array, m3: jax.Array) -> list[jax.Array]:
        return [m1 + m2, m2 - m3]

    pixels = [jnp.stack(merge(*row), axis=2) for row in zip(*(merge(*row) for row in products))]
    batch, height, _, width, features = pixels[0].shape
    return jnp.stack(pixels, axis=4).reshape(batch, 2 * height, 2 * width, features)


def _kernel_to_factors(kernel: jax.Array, transposed: bool) -> list[jax.Array]:
    """Computes the factors of the kernel.

    `[4, 4, C, F]` -> three `[3, 4C, F]`; if `transposed`, `[4, 4, F, C]` -> three `[3, F, 4C]`.
    """
    if transposed:
        kernel = kernel[::-1, ::-1]
    rows, columns = kernel.shape[2:]
    k0, k1 = kernel.reshape(2, 2, 2, 2, rows, columns).transpose(_taps_first(transposed))
    shape = (3, rows, 4 * columns) if transposed else (3, 4 * rows, columns)
    return [jnp.stack([row[0], row[0] + row[1], row[1]]).reshape(shape) for row in (k0, k0 + k1, k1)]


def _products_to_kernel(products: list[jax.Array], transposed: bool) -> jax.Array:
    """Computes the transpose of `_kernel_to_factors`."""

    def merge(m1: jax.Array, m2: jax.Array, m3: jax.Array) -> jax.Array:
        return jnp.stack([m1 + m2, m2 + m3])

    taps = merge(*(merge(*row) for row in products))
    rows, columns = taps.shape[2:]
    shape = (2, 2, rows, 2, 2, columns // 4) if transposed else (2, 2, 2, 2, rows // 4, columns)
    kernel = taps.reshape(shape).transpose(np.argsort(_taps_first(transposed)))
    kernel = kernel.reshape(4, 4, *kernel.shape[4:])
    return kernel[::-1, ::-1] if transposed else kernel


def _taps_first(transposed: bool) -> tuple[int, ...]:
    """Returns the order of a kernel's axes (tap, pixel, tap, pixel, rows, columns) in the factors.

    The two tap axes come first. The two pixel axes stand beside the channels of the fine map.
    """
    return (0, 2, 4, 1, 3, 5) if transposed else (0, 2, 1, 3, 4, 5)


def _cells_to_pixels(cells: jax.Array) -> jax.Array:
    """Separates the 2x2 pixels of each cell and removes the border.

    `[B, H / 2 + 1, W / 2 + 1, 4C]` -> `[B, H, W, C]`.
    """
    batch, height, width, channels = cells.shape
    x = cells.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, -1)[:, 1:-1, 1:-1]


def _every_other(x: jax.Array, starts: int, count: int, axis: int) -> list[jax.Array]:
    """Takes `count` elements s, s + 2, ... of an axis, for each s from 0 to `starts` - 1."""
    return [jax.lax.slice_in_dim(x, s, s + 2 * count - 1, 2, axis) for s in range(starts)]


def _pad_with_zeros(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Adds `before` zeros before an axis and `after` zeros behind it."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
