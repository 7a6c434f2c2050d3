"""Reads a memory by convolutions, so that the map stays whole. This is for the TPU.

`memory.divide` cuts a map into blocks, and `memory.assemble` puts blocks together. On a TPU both copy the map
into another order, and so do their gradients. A convolution whose strides are the size of a block computes
the same products without copies: each output pixel is one block, each output channel one item.
"""

import functools

import jax
import jax.numpy as jnp

from daad_jax.models.addressing import cosines_to_weights, inverse_lengths, inverse_root_of_squares
from daad_jax.models.image_layers import NHWC, Pair
from daad_jax.models.packing import pack

Division = tuple[int, int, int]


def can_read_map(shape: tuple[int, ...], division: Division) -> bool:
    """Tells whether this module can read a map.

    Args:
        shape: the shape of the map as it is stored, packed or not.
        division: cuts per axis. No block may be a part of the channels or of a packed pixel.
    """
    return division[2] == 1 and not any(axis % cuts for axis, cuts in zip(shape[1:3], division))


def read_map(
    features: jax.Array,
    items: jax.Array,
    division: Division,
    packed: int = 1,
    temperature: float = 1.0,
    shrink: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Replaces each block by what the memory can express of it, as `divide`, `read` and `assemble` do.

    Args:
        features: `[B, H, W, C]`. Their type is that of the products' operands. Sums, cosines and weights are
            float32.
        items: `[N, D]`.
        division: cuts per axis; see `can_read_map`.
        packed: the factor by which the map is packed.
        temperature: see `memory.address`.
        shrink: see `memory.address`.

    Returns:
        `[B, H, W, C]` in the type of `features`, and the weights `[B, Q, N]` in float32.
    """
    batch, height, width, channels = features.shape
    rows, columns, _ = division
    block = (height // rows, width // columns)
    blocks = items.astype(features.dtype).reshape(len(items), block[0] * packed, block[1] * packed, -1)
    kernel = pack(blocks, packed).transpose(1, 2, 3, 0)
    squares = jnp.square(features.astype(jnp.float32))
    squares = jnp.sum(squares.reshape(batch, rows, block[0], columns, block[1], channels), (2, 4, 5))
    query_scale = inverse_root_of_squares(squares)
    products = _multiply(features, kernel, block)
    cosines = products * query_scale[..., None] * inverse_lengths(items).reshape(1, 1, 1, -1)
    weights = cosines_to_weights(cosines, temperature, shrink)
    expressed = _spread(weights.astype(features.dtype), kernel, block)
    return expressed, weights.reshape(batch, rows * columns, -1)


def _conv(features: jax.Array, kernel: jax.Array, block: Pair) -> jax.Array:
    return jax.lax.conv_general_dilated(features, kernel, block, "VALID", dimension_numbers=NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(features: jax.Array, kernel: jax.Array, block: Pair) -> jax.Array:
    """Multiplies all blocks by all items: float32 `[B, rows, columns, N]`, from operands of any type."""
    return jax.lax.conv_general_dilated(
        features, kernel, block, "VALID", dimension_numbers=NHWC, preferred_element_type=jnp.float32
    )


def _multiply_forward(
    features: jax.Array, kernel: jax.Array, block: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply(features, kernel, block), (features, kernel)


def _multiply_backward(
    block: Pair, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients, which JAX lacks if the result has another type than the operands."""
    _, pull = jax.vjp(lambda features, kernel: _conv(features, kernel, block), *operands)
    return pull(gradient.astype(operands[0].dtype))  # type: ignore[no-any-return]


_multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(weights: jax.Array, kernel: jax.Array, block: Pair) -> jax.Array:
    """Puts the weighted sum of the items into each block: the adjoint of `_conv`. `[B, H, W, C]`."""
    return jax.lax.conv_transpose(
        weights, kernel, block, "VALID", dimension_numbers=NHWC, transpose_kernel=True
    )


def _spread_forward(
    weights: jax.Array, kernel: jax.Array, block: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _spread(weights, kernel, block), (weights, kernel)


def _spread_backward(
    block: Pair, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients by a strided convolution. XLA's own gradient would first reverse the map."""
    weights, kernel = operands
    (kernel_gradient,) = jax.linear_transpose(lambda k: _conv(gradient, k, block), kernel)(weights)
    return _conv(gradient, kernel, block), kernel_gradient


_spread.defvjp(_spread_forward, _spread_backward)
