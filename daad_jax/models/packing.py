"""Packs 2x2 or 4x4 neighbouring pixels into the channels of one, for the TPU.

A TPU keeps arrays in tiles of 128 lanes. XLA lays the images of a batch or the channels of a map along the
lanes. With 16 images on a chip and 16 channels, a map takes eight times its size, and so does each access to
it. Packed 4x4, the same map has 256 channels and fills its tiles.

The maps that are finer than one chosen level, the *grid*, are packed to the size of that level. Each layer
between packed maps becomes a 3x3 convolution with stride 1 over the grid. Most of the larger kernel is zero:
the layer multiplies more than before, but on a TPU the bytes of a small map cost more than its products.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

LANES = 128  # of a tile
MAX_PACKED_CHANNELS = 256  # more would multiply the products, and the tiles are full already

Packing = tuple[int, int]  # of the input and of the output of a layer; 1: not packed


def choose_grid(batch: int, widths: Sequence[int], size: tuple[int, ...]) -> int:
    """Chooses the level to whose size all finer maps are packed; 0 if none is packed.

    Args:
        batch: the number of images on a device.
        widths: the channels of the maps at 1, 1/2, 1/4, ... of the full resolution.
        size: (H, W) of the full resolution.
    """
    if batch >= LANES:
        return 0
    grid = 0
    for level in range(1, len(widths)):
        if any(pixels % 2**level for pixels in size):
            break
        if any(4 ** (level - finer) * widths[finer] > MAX_PACKED_CHANNELS for finer in range(level)):
            break
        grid = level
    return grid


def factor_of(level: int, grid: int) -> int:
    """Counts the pixels of a level that one pixel of the grid holds along each axis."""
    return int(2 ** max(grid - level, 0))


def pack(x: jax.Array, factor: int) -> jax.Array:
    """Packs a map: `[B, H, W, C]` -> `[B, H / factor, W / factor, factor^2 C]`."""
    if factor == 1:
        return x
    batch, height, width, channels = x.shape
    # The pixels of a row lie side by side with their channels already, which leaves one axis to move.
    cells = x.reshape(batch, height // factor, factor, width // factor, factor * channels)
    return cells.swapaxes(2, 3).reshape(batch, height // factor, width // factor, -1)


def unpack(x: jax.Array, factor: int) -> jax.Array:
    """Unpacks a map: `[B, H, W, factor^2 C]` -> `[B, H factor, W factor, C]`."""
    if factor == 1:
        return x
    batch, height, width, packed = x.shape
    cells = x.reshape(batch, height, width, factor, packed // factor)
    return cells.swapaxes(2, 3).reshape(batch, height * factor, width * factor, -1)


def pack_kernel(kernel: jax.Array, packing: Packing, transposed: bool, parts: int = 1) -> jax.Array:
    """Builds the kernel of the 3x3 convolution that replaces a layer between packed maps.

    Args:
        kernel: `[k, k, C, F]` of a convolution with padding SAME: 3x3 with stride 1, or 4x4 with stride 2.
        packing: the factors of the input and of the output. In both, one pixel of the grid is the same part
            of the image.
        transposed: True for a transposed convolution (4x4, stride 2).
        parts: how many packed maps were concatenated to the input.

    Returns:
        `[3, 3, packing[0]^2 C, packing[1]^2 F]`.
    """
    before, after = packing
    taps, _, channels, features = kernel.shape
    # Along one axis: input pixel a of the cell at distance d, output pixel p, and the tap between them.
    d, a, p, t = np.ogrid[-1:2, :before, :after, :taps]
    position = d * before + a
    tap = 2 + 2 * position - p if transposed else position - before // after * p + 1
    chosen = (tap == t).astype(np.float32)
    # The products with 0 and 1 are exact in full precision.
    packed = jnp.einsum(
        "iapt,jbqu,tugcf->ijgabcpqf",
        chosen,
        chosen,
        kernel.reshape(taps, taps, parts, channels // parts, features),
        precision="highest",
    )
    return packed.reshape(3, 3, before**2 * channels, after**2 * features)
