"""4x4 convolutions with stride 2 from 9/16 of the multiplications (Winograd's minimal filtering, F(2, 2)).

With a border of zeros, the 2x2 pixels that share a place on the coarse map are one "pair" an axis, and the
convolution is one of 2x2 taps with stride 1 over pairs. Along an axis, three products do for two outputs:

    m_1 = (p_0 - p_1) . k_0         y_0 = m_1 + m_2
    m_2 = p_1 . (k_0 + k_1)         y_1 = m_2 - m_3
    m_3 = (p_1 - p_2) . k_1

and over two axes nine matrix products for four. The whole is trilinear, so that the transposed convolution
and the kernel's gradient are the same products with the roles exchanged. Only sums of two numbers are added
to the direct form: float32 keeps its digits.
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

FEWEST_PIXELS = 512  # of the coarse map, all images together: fewer do not repay the sums over the kernel
# As `is_faster` counts them; fewer do not repay the sums over the maps, of which `up` has least.
FEWEST_CHANNELS = 50
FEWEST_CHANNELS_UP = 24


def is_faster(fine: tuple[int, ...], coarse: int, dtype: jnp.dtype, only_up: bool = False) -> bool:
    """Whether this is possible, faster than the direct form, and as exact.

    Args:
        fine: shape `[B, H, W, C]` of the map of full resolution.
        coarse: channels of the map of half of it.
        dtype: of the products; sums in bfloat16 would cost the digits that it has left.
        only_up: asks for `up` alone.
    """
    batch, height, width, channels = fine
    if not isinstance(batch, int):  # a program for any number of images, as exported ones are
        return False
    if height % 4 or width % 4 or batch * height * width < 4 * FEWEST_PIXELS or dtype != jnp.float32:
        return False
    fewest = FEWEST_CHANNELS_UP if only_up else FEWEST_CHANNELS
    return channels * coarse >= fewest * (4 * channels + coarse)


def down(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
    """Stride 2, SAME. `[B, H, W, C]`, `[4, 4, C, F]` -> `[B, H / 2, W / 2, F]`; 4 divides H and W.

    `transposed`: the kernel belongs to the transposed convolution of which this is the adjoint,
    `[4, 4, F, C]`.
    """
    kernels = _from_kernel(kernel, transposed)
    batch, height, width, _ = x.shape
    products = [a @ (k.swapaxes(1, 2) if transposed else k) for a, k in zip(_from_fine(x), kernels)]
    return _to_coarse([m.reshape(3, batch, height // 4, width // 4, -1) for m in products])


def up(x: jax.Array, kernel: jax.Array, transposed: bool = True) -> jax.Array:
    """Its transpose for x. `[B, h, w, F]`, `[4, 4, F, C]` -> `[B, 2h, 2w, C]`; 2 divides h and w.

    Not `transposed`: the kernel belongs to the convolution of which this is the adjoint, `[4, 4, C, F]`.
    """
    kernels = _from_kernel(kernel, transposed)
    batch, height, width, _ = x.shape
    products = [a @ (k if transposed else k.swapaxes(1, 2)) for a, k in zip(_from_coarse(x), kernels)]
    return _to_fine([m.reshape(3, batch, height // 2, width // 2, -1) for m in products])


def kernel_gradient(fine: jax.Array, coarse: jax.Array, transposed: bool) -> jax.Array:
    """Of either, from one's input and the other's gradient.

    `[B, H, W, C]`, `[B, H / 2, W / 2, F]` -> `[4, 4, F, C]` of the transposed one, else `[4, 4, C, F]`.
    """
    sides = zip(_from_fine(fine), _from_coarse(coarse))
    products = [b.swapaxes(1, 2) @ a if transposed else a.swapaxes(1, 2) @ b for a, b in sides]
    return _to_kernel(products, transposed)


# The nine products are three batches of three, which is less to compile than nine. What each of the terms
# counts in the three of a batch:
OF_PAIRS = ((1, 0, 0), (-1, 1, 1), (0, 0, -1))
OF_OUTPUTS = ((1, 1, 0), (0, 1, -1))
OF_TAPS = ((1, 1, 0), (0, 1, 1))


def _three(terms: Sequence[jax.Array], weights: Sequence[tuple[int, ...]]) -> jax.Array:
    """Terms `[...]` -> `[3, ...]`."""
    shape = (3, *(1,) * terms[0].ndim)
    weighted = [jnp.asarray(w, jnp.float32).reshape(shape) * term[None] for w, term in zip(weights, terms)]
    return functools.reduce(jnp.add, weighted)


def _from_fine(x: jax.Array) -> list[jax.Array]:
    """`[B, H, W, C]` -> the images' side of the nine products, three `[3, B H / 4 W / 4, 4C]`."""
    pairs = _pairs(x)
    p0, p1, p2 = _every_other(pairs, 3, pairs.shape[1] // 2, 1)
    columns = pairs.shape[2] // 2
    rows = [_three(_every_other(row, 3, columns, 2), OF_PAIRS) for row in (p0 - p1, p1, p1 - p2)]
    return [row.reshape(3, -1, pairs.shape[-1]) for row in rows]


def _to_fine(products: list[jax.Array]) -> jax.Array:
    """The transpose of `_from_fine`, from three `[3, B, H / 4, W / 4, 4C]`."""

    def along(three: Iterable[jax.Array], axis: int) -> jax.Array:
        m1, m2, m3 = three
        even = _padded(m1, axis, 0, 1) - _padded(m3, axis, 1, 0)
        odd = _padded(m2 + m3 - m1, axis, 0, 1)
        both = jnp.stack([even, odd], axis=axis + 1)
        shape = [*m1.shape]
        shape[axis] = 2 * shape[axis] + 2
        return jax.lax.slice_in_dim(both.reshape(shape), 0, shape[axis] - 1, axis=axis)

    return _unpaired(along([along(row, 2) for row in products], 1))


def _from_coarse(y: jax.Array) -> list[jax.Array]:
    """`[B, h, w, F]` -> the other side's share of the nine, three `[3, B h / 2 w / 2, F]`."""
    y0, y1 = _every_other(y, 2, y.shape[1] // 2, 1)
    columns = y.shape[2] // 2
    rows = [_three(_every_other(row, 2, columns, 2), OF_OUTPUTS) for row in (y0, y0 + y1, -y1)]
    return [row.reshape(3, -1, y.shape[-1]) for row in rows]


def _to_coarse(products: list[jax.Array]) -> jax.Array:
    """The transpose of `_from_coarse`, from three `[3, B, h / 2, w / 2, F]`."""

    def along(m1: jax.Array, m2: jax.Array, m3: jax.Array) -> list[jax.Array]:
        return [m1 + m2, m2 - m3]

    pixels = [jnp.stack(along(*row), axis=2) for row in zip(*(along(*row) for row in products))]
    batch, height, _, width, features = pixels[0].shape
    return jnp.stack(pixels, axis=4).reshape(batch, 2 * height, 2 * width, features)


def _from_kernel(kernel: jax.Array, transposed: bool) -> list[jax.Array]:
    """`[4, 4, C, F]` -> three `[3, 4C, F]`; of the transposed convolution, `[4, 4, F, C]` -> `[3, F, 4C]`."""
    if transposed:
        kernel = kernel[::-1, ::-1]
    rows, columns = kernel.shape[2:]
    taps = kernel.reshape(2, 2, 2, 2, rows, columns).transpose(_order(transposed))
    k0, k1 = taps.reshape(2, 2, *((rows, 4 * columns) if transposed else (4 * rows, columns)))
    return [_three([row[0], row[1]], OF_TAPS) for row in (k0, k0 + k1, k1)]


def _to_kernel(products: list[jax.Array], transposed: bool) -> jax.Array:
    """The transpose of `_from_kernel`."""

    def along(m1: jax.Array, m2: jax.Array, m3: jax.Array) -> jax.Array:
        return jnp.stack([m1 + m2, m2 + m3])

    taps = along(*(along(*row) for row in products))
    rows, columns = taps.shape[2:]
    shape = (2, 2, rows, 2, 2, columns // 4) if transposed else (2, 2, 2, 2, rows // 4, columns)
    kernel = taps.reshape(shape).transpose(np.argsort(_order(transposed)))
    kernel = kernel.reshape(4, 4, *kernel.shape[4:])
    return kernel[::-1, ::-1] if transposed else kernel


def _order(transposed: bool) -> tuple[int, ...]:
    """Axes of (tap, pixel, tap, pixel, rows, columns): taps first, pixels beside the fine map's channels."""
    return (0, 2, 4, 1, 3, 5) if transposed else (0, 2, 1, 3, 4, 5)


def _pairs(x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` -> `[B, H / 2 + 1, W / 2 + 1, 4C]`: 2x2 pixels each, of the map with a border of 0."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2 + 1, width // 2 + 1, -1)


def _unpaired(pairs: jax.Array) -> jax.Array:
    """The transpose of `_pairs`."""
    batch, height, width, channels = pairs.shape
    x = pairs.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, -1)[:, 1:-1, 1:-1]


def _every_other(x: jax.Array, starts: int, count: int, axis: int) -> list[jax.Array]:
    """x[s], x[s + 2] and so on along an axis, `count` of them, for s = 0 to `starts` - 1."""
    return [jax.lax.slice_in_dim(x, s, s + 2 * count - 1, 2, axis) for s in range(starts)]


def _padded(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """With so many zeros along an axis."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, after, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
