"""Convolutions that are fast on every backend. Their parameters have the form of Flax's `nn.Conv`.

XLA:CPU can run a convolution with a dilated input tens of times slower than the machine allows. A 4x4 layer
with stride 2 contains three such convolutions:

1. the transposed convolution itself,
2. the kernel's gradient of the transposed convolution,
3. the input's gradient of the strided convolution, which is slow on small maps only.

The "split" implementation computes 1 and 3 as four plain 2x2 convolutions, one for each of the 2x2 pixels
that one pixel of the coarse map becomes. The other gradients are as in a plain strided convolution. XLA
runs that convolution well, except where it first reorders an array that is larger than the rest of the work.
Matrix products replace the convolution in three places: the gradients of an up-sampling layer on a small map,
an up-sampling layer that scores a single small image, and a 3x3 layer whose output is an image. A 3x3 layer
whose input is an image is a sum of scaled, shifted images. Layers with enough channels use Winograd's method
for everything, which needs fewer multiplications (`winograd.py`). TPU and GPU keep the native operations, and
so does every other shape.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from daad_jax.models import winograd
from daad_jax.models.image_layers import (
    MAX_IMAGE_CHANNELS,
    NHWC,
    Pair,
    conv3x3_from_image,
    conv3x3_to_image,
    extract_patches,
    native_conv,
    reads_image,
)
from daad_jax.models.packing import Packing, pack_kernel
from daad_jax.models.transposed_convolution import (
    down_kernel_gradient,
    flip,
    native_conv_transpose,
    native_up,
)

# "native" and "split" force one implementation; "split" exists for some shapes only.
# "auto" takes the faster one for the backend of this process.
# "portable" chooses when the program runs, on the device that runs it. Training must not use "portable",
# since its gradient would keep the operands of both implementations.
Implementation = Literal["auto", "native", "split", "portable"]

# A map with at least this many channels per pixel (of all its images) is tiny. Its kernel is much larger, and
# must not be copied.
TINY_MAP_CHANNELS_PER_PIXEL = 32


def choose_implementation(
    kernel_size: Pair, strides: Pair, channels: Pair | None, backend: str
) -> Implementation:
    """Chooses the faster implementation, "split" or "native", of a convolution or a transposed convolution.

    Args:
        kernel_size: (height, width) of the kernel.
        strides: the strides of the convolution. A transposed convolution enlarges its input by these factors.
        channels: the numbers of channels of input and output; None for a transposed convolution, where they
            do not matter.
        backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` returns it.
    """
    return "split" if backend == "cpu" and _has_split(kernel_size, strides, channels) else "native"


def _has_split(kernel_size: Pair, strides: Pair, channels: Pair | None) -> bool:
    """Tells whether this module implements "split" for the shape."""
    if channels and (kernel_size, strides) == ((3, 3), (1, 1)):
        return reads_image(*channels) or channels[1] <= MAX_IMAGE_CHANNELS
    return (kernel_size, strides) == ((4, 4), (2, 2))


# The custom gradients below allow reverse mode only (grad and vjp, not jvp).


@jax.custom_vjp
def conv4x4_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution with stride 2 and padding SAME.

    `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, ceil(H / 2), ceil(W / 2), F]`.
    """
    if winograd.is_faster(x.shape, kernel.shape[-1], x.dtype):
        return winograd.down(x, kernel)
    return native_conv(x, kernel, (2, 2))


@jax.custom_vjp
def conv4x4_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a transposed convolution with stride 2 and padding SAME.

    `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, 2H, 2W, F]`.
    """
    batch, rows, columns, channels = x.shape
    if winograd.is_faster((batch, 2 * rows, 2 * columns, kernel.shape[-1]), channels, x.dtype):
        return winograd.up(x, kernel)
    # In a program for any number of images, `batch` is not an int.
    if isinstance(batch, int) and channels >= TINY_MAP_CHANNELS_PER_PIXEL * batch * rows * columns:
        return _up_from_tiny_map(x, kernel)
    # Pixel 2i of the output sees pixels i - 1 and i of x, through taps 0 and 2. Pixel 2i + 1 sees pixels i
    # and i + 1, through taps 1 and 3.
    pixels = [
        jax.lax.conv_general_dilated(
            x, kernel[i::2, j::2], (1, 1), [(1 - i, i), (1 - j, j)], dimension_numbers=NHWC
        )
        for i in range(2)
        for j in range(2)
    ]
    cells = jnp.stack(pixels, axis=3).reshape(batch, rows, columns, 2, 2, -1)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, -1)


def _up_from_tiny_map(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv4x4_up` without a copy of the kernel.

    All pixels are multiplied by all taps. Then each product is added at its place in the output.
    """
    batch, rows, columns, channels = x.shape
    pixels = jnp.broadcast_to(x.reshape(1, -1, channels), (16, batch * rows * columns, channels))
    products = (pixels @ kernel.reshape(16, channels, -1)).reshape(4, 4, batch, rows, columns, -1)

    def place(i: int, j: int) -> jax.Array:
        # Tap i of pixel r goes to pixel 2r + 2 - i of the output, if that pixel exists.
        config = ((0, 0, 0), (2 - i, i - 1, 1), (2 - j, j - 1, 1), (0, 0, 0))
        return jax.lax.pad(products[i, j], jnp.zeros((), products.dtype), config)

    return functools.reduce(jnp.add, [place(i, j) for i in range(4) for j in range(4)])


Operands = tuple[jax.Array, jax.Array]


def _down_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_down(x, kernel), (x, kernel)


def _down_backward(operands: Operands, gradient: jax.Array) -> Operands:
    x, kernel = operands
    if winograd.is_faster(x.shape, kernel.shape[-1], x.dtype):
        x, kernel = _copy_for_backward(operands, gradient)
        return winograd.up(gradient, kernel, transposed=False), winograd.kernel_gradient(
            x, gradient, transposed=False
        )
    input_gradient = conv4x4_up(gradient, flip(kernel))[:, : x.shape[1], : x.shape[2]]
    return input_gradient, down_kernel_gradient(x, gradient, kernel)


def _up_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_up(x, kernel), (x, kernel)


def _up_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Computes both gradients of `conv4x4_up`.

    `conv4x4_up` is the adjoint of `conv4x4_down`. Its gradients are therefore the gradients of
    `conv4x4_down` with input and output exchanged.
    """
    x, kernel = operands
    batch, rows, columns, channels = x.shape
    if winograd.is_faster(gradient.shape, channels, x.dtype):
        x, kernel = _copy_for_backward(operands, gradient)
        return winograd.down(gradient, kernel, transposed=True), winograd.kernel_gradient(
            gradient, x, transposed=True
        )
    if batch * rows * columns > 2 * channels:
        flipped = flip(kernel)
        return native_conv(gradient, flipped, (2, 2)), flip(down_kernel_gradient(gradient, x, flipped))
    # The kernel is the largest array here, so no operation may exchange its last two axes.
    taps = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(channels, -1)
    patches = extract_patches(gradient, (4, 4), (2, 2)).reshape(-1, taps.shape[1])
    product = x.reshape(-1, channels).T @ patches
    turned = product.reshape(channels, 4, 4, -1).transpose(1, 2, 0, 3)
    return (patches @ taps.T).reshape(x.shape), turned[::-1, ::-1]


def _copy_for_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Copies the operands so that XLA cannot recognise them as the operands of the forward pass.

    The backward pass recomputes Winograd's sums from these copies. Otherwise XLA would notice that the
    forward pass computed the same sums, and would keep those in memory until the backward pass.
    """
    zero = 0 * gradient[:1, :1, :1, :1]  # XLA cannot replace this by 0, since the gradient might be NaN
    x, kernel = operands
    return x + zero, kernel + zero


conv4x4_down.defvjp(_down_forward, _down_backward)
conv4x4_up.defvjp(_up_forward, _up_backward)


class Conv(nn.Module):
    """A convolution with the parameters, initial values and results of `nn.Conv` with padding SAME."""

    features: int
    kernel_size: Pair = (3, 3)
    strides: Pair = (1, 1)
    use_bias: bool = True
    implementation: Implementation = "auto"
    dtype: str = "float32"  # of the products; the parameters and the result are float32
    packing: Packing = (1, 1)  # of the input's and the result's pixels

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), features]`, both packed by `packing`."""
        kernel, bias = _create_parameters(self, x.shape[-1] // self.packing[0] ** 2)
        if self.packing != (1, 1):
            return _conv_packed(x, pack_kernel(kernel, self.packing, False), bias, self)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return native_conv(x, kernel, self.strides)

        channels = (x.shape[-1], self.features)
        conv3x3 = conv3x3_from_image if reads_image(*channels) else conv3x3_to_image
        split = conv4x4_down if self.strides == (2, 2) else conv3x3
        return _add_bias(_select_function(self, channels, native, split)(x, kernel), bias)


class ConvTranspose(nn.Module):
    """A transposed convolution, with the parameters, initial values and results of `nn.ConvTranspose`.

    The padding is SAME.
    """

    features: int
    kernel_size: Pair = (4, 4)
    strides: Pair = (2, 2)
    use_bias: bool = True
    implementation: Implementation = "auto"
    dtype: str = "float32"  # as in `Conv`
    packing: Packing = (1, 1)  # as in `Conv`
    parts: int = 1  # how many maps were concatenated to the input; matters if they are packed

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H * stride, W * stride, features]`, both packed by `packing`."""
        kernel, bias = _create_parameters(self, x.shape[-1] // self.packing[0] ** 2)
        if self.packing != (1, 1):
            return _conv_packed(x, pack_kernel(kernel, self.packing, True, self.parts), bias, self)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
            if jax.default_backend() == "tpu" and (self.kernel_size, self.strides) == ((4, 4), (2, 2)):
                return native_up(x, kernel)
            return native_conv_transpose(x, kernel, self.strides)

        return _add_bias(_select_function(self, None, native, conv4x4_up)(x, kernel), bias)


def _conv_packed(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, module: Conv | ConvTranspose
) -> jax.Array:
    """Computes the 3x3 convolution between packed maps."""
    y = native_conv(x.astype(module.dtype), kernel.astype(module.dtype), (1, 1))
    return _add_bias(y, None if bias is None else jnp.tile(bias, module.packing[1] ** 2))


def _create_parameters(module: Conv | ConvTranspose, channels: int) -> tuple[jax.Array, jax.Array | None]:
    """Creates the kernel and, if the module uses one, the bias."""
    shape = (*module.kernel_size, channels, module.features)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", nn.initializers.zeros, (module.features,), jnp.float32)


def _add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds the bias, if there is one, in float32."""
    y = y.astype(jnp.float32)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


Function = Callable[[jax.Array, jax.Array], jax.Array]


def _select_function(
    module: Conv | ConvTranspose, channels: Pair | None, native: Function, split: Function
) -> Function:
    """Selects the function that the module's `implementation` asks for.

    Raises:
        ValueError: `implementation` is "split", which does not exist for this shape.
    """
    shape = (module.kernel_size, module.strides, channels)
    if module.implementation == "split" and not _has_split(*shape):
        raise ValueError(
            f'implementation "split" does not exist for kernel {module.kernel_size}, strides {module.strides}'
        )
    if module.implementation == "portable" and choose_implementation(*shape, "cpu") == "split":
        return lambda x, kernel: jax.lax.platform_dependent(x, kernel, cpu=split, default=native)
    chosen = (
        choose_implementation(*shape, jax.default_backend())
        if module.implementation == "auto"
        else module.implementation
    )
    return split if chosen == "split" else native
