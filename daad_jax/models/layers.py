"""Convolutions that are fast on every backend, with the parameters of Flax's `nn.Conv`.

XLA:CPU can run a convolution of a dilated input tens of times below the machine's speed. The 4x4
stride-2 layers have three: the transposed convolution, its kernel gradient and, slow on small maps,
the input gradient of the strided convolution. Here the first and the last are four plain 2x2
convolutions, one for each pixel of the 2x2 that an input pixel becomes, and the other gradients are
those of a plain strided convolution, which XLA runs well but where it first reorders an array that is
larger than the rest of the work: in the kernel of an up-sampling layer on a small map. That, the layer
itself where a single small image is scored, and a 3x3 layer that ends in an image, are matrix products
here; where there are channels enough, all of it is, with fewer multiplications (`winograd.py`). TPU and
GPU keep the native operations, and so does every other shape.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from daad_jax.models import winograd

Pair = tuple[int, int]
# "native" and "split" force one ("split": where it is written), "auto" has the faster one for the backend of
# this process, "portable" chooses where the program runs, not where it is traced. "portable" is not for
# training: its gradient would carry what both forms keep.
Implementation = Literal["auto", "native", "split", "portable"]

NHWC = ("NHWC", "HWIO", "NHWC")
FEW = 8  # channels at most: an image, not a feature map
CHANNELS_A_PIXEL = 32  # at least, and a kernel is so much larger than its map that it must not be copied


def choose_implementation(
    kernel_size: Pair, strides: Pair, features: int | None, backend: str
) -> Implementation:
    """The implementation of a convolution, transposed or not: "split" where it is written and faster.

    Args:
        kernel_size: (height, width) of the kernel.
        strides: of the convolution; for a transposed one, how many times larger its output is.
        features: channels of the output; None for a transposed convolution, where they do not matter.
        backend: as `jax.default_backend()` says.
    """
    wins = backend == "cpu" and _is_written(kernel_size, strides, features)
    return "split" if wins else "native"


def _is_written(kernel_size: Pair, strides: Pair, features: int | None) -> bool:
    if features is not None and features <= FEW and (kernel_size, strides) == ((3, 3), (1, 1)):
        return True
    return (kernel_size, strides) == ((4, 4), (2, 2))


def native_conv(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """SAME. `[B, H, W, C]` and `[kh, kw, C, F]` -> `[B, ceil(H / stride), ceil(W / stride), F]`."""
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=NHWC)


def native_conv_transpose(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """SAME. `[B, H, W, C]` and `[kh, kw, C, F]` -> `[B, H * stride, W * stride, F]`."""
    return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=NHWC)


# Custom gradients below allow reverse mode only (grad, vjp), not jvp.


@jax.custom_vjp
def conv4x4_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 2, SAME. `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, ceil(H / 2), ceil(W / 2), F]`."""
    if winograd.is_faster(x.shape, kernel.shape[-1], x.dtype):
        return winograd.down(x, kernel)
    return native_conv(x, kernel, (2, 2))


@jax.custom_vjp
def conv4x4_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed, stride 2, SAME. `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, 2H, 2W, F]`."""
    batch, rows, columns, channels = x.shape
    if winograd.is_faster((batch, 2 * rows, 2 * columns, kernel.shape[-1]), channels, x.dtype, only_up=True):
        return winograd.up(x, kernel)
    # Not an int: a program for any number of images.
    if isinstance(batch, int) and channels >= CHANNELS_A_PIXEL * batch * rows * columns:
        return _up_from_few(x, kernel)
    # Pixel 2i of the output sees pixels i - 1 and i of x, through taps 0 and 2; pixel 2i + 1 sees i and
    # i + 1, through taps 1 and 3.
    pixels = [
        jax.lax.conv_general_dilated(
            x, kernel[i::2, j::2], (1, 1), [(1 - i, i), (1 - j, j)], dimension_numbers=NHWC
        )
        for i in range(2)
        for j in range(2)
    ]
    cells = jnp.stack(pixels, axis=3).reshape(batch, rows, columns, 2, 2, -1)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, -1)


def _up_from_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv4x4_up` without a copy of the kernel's taps: what each gives, and then where that goes."""
    batch, rows, columns, channels = x.shape
    pixels = jnp.broadcast_to(x.reshape(1, -1, channels), (16, batch * rows * columns, channels))
    products = (pixels @ kernel.reshape(16, channels, -1)).reshape(4, 4, batch, rows, columns, -1)

    def placed(i: int, j: int) -> jax.Array:
        # Tap i of pixel r counts in pixel 2r + 2 - i of the output, if there is one.
        config = ((0, 0, 0), (2 - i, i - 1, 1), (2 - j, j - 1, 1), (0, 0, 0))
        return jax.lax.pad(products[i, j], jnp.zeros((), products.dtype), config)

    return functools.reduce(jnp.add, [placed(i, j) for i in range(4) for j in range(4)])


@jax.custom_vjp
def conv3x3_to_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, SAME. `[B, H, W, C]` and `[3, 3, C, F]` -> `[B, H, W, F]`, F few."""
    batch, rows, columns, channels = x.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = (x.reshape(-1, channels) @ taps).reshape(batch, rows, columns, -1)
    padded = jnp.pad(products, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = jnp.split(padded, 9, axis=-1)  # what every tap gives, at the pixel that it takes it from
    shifted = [parts[3 * i + j][:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, shifted)


Operands = tuple[jax.Array, jax.Array]


def _down_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_down(x, kernel), (x, kernel)


def _down_backward(operands: Operands, gradient: jax.Array) -> Operands:
    x, kernel = operands
    if winograd.is_faster(x.shape, kernel.shape[-1], x.dtype):
        x, kernel = _once_more(operands, gradient)
        return winograd.up(gradient, kernel, transposed=False), winograd.kernel_gradient(
            x, gradient, transposed=False
        )
    of_input = conv4x4_up(gradient, _flip(kernel))[:, : x.shape[1], : x.shape[2]]
    return of_input, _down_kernel_gradient(x, gradient, kernel)


def _up_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_up(x, kernel), (x, kernel)


def _up_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Up is the adjoint of down: its gradients are those of down, input and output swapped."""
    x, kernel = operands
    batch, rows, columns, channels = x.shape
    if winograd.is_faster(gradient.shape, channels, x.dtype):
        x, kernel = _once_more(operands, gradient)
        return winograd.down(gradient, kernel, transposed=True), winograd.kernel_gradient(
            gradient, x, transposed=True
        )
    if batch * rows * columns > 2 * channels:
        flipped = _flip(kernel)
        return native_conv(gradient, flipped, (2, 2)), _flip(_down_kernel_gradient(gradient, x, flipped))
    # The kernel is the largest array here, so nothing may exchange its last two axes.
    taps = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(channels, -1)
    patches = _patches(gradient, (4, 4), (2, 2)).reshape(-1, taps.shape[1])
    product = x.reshape(-1, channels).T @ patches
    turned = product.reshape(channels, 4, 4, -1).transpose(1, 2, 0, 3)
    return (patches @ taps.T).reshape(x.shape), turned[::-1, ::-1]


def _once_more(operands: Operands, gradient: jax.Array) -> Operands:
    """The operands, as arrays of the backward pass.

    XLA would find that the forward pass made the same sums of them, and keep those until now.
    """
    nothing = 0 * gradient[:1, :1, :1, :1]  # not to a compiler: it might be NaN
    x, kernel = operands
    return x + nothing, kernel + nothing


def _few_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3_to_few(x, kernel), (x, kernel)


def _few_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """The input's is native; the kernel's sums x by the gradient around every pixel of x."""
    x, kernel = operands
    channels, features = kernel.shape[2:]
    (of_input,) = jax.linear_transpose(lambda x: native_conv(x, kernel, (1, 1)), x)(gradient)
    patches = _patches(gradient, (3, 3), (1, 1)).reshape(-1, 9 * features)
    product = patches.T @ x.reshape(-1, channels)
    return of_input, product.reshape(3, 3, features, channels)[::-1, ::-1].swapaxes(2, 3)


conv4x4_down.defvjp(_down_forward, _down_backward)
conv4x4_up.defvjp(_up_forward, _up_backward)
conv3x3_to_few.defvjp(_few_forward, _few_backward)


def _patches(x: jax.Array, kernel_size: Pair, strides: Pair) -> jax.Array:
    """What SAME windows see: `[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), kh * kw * C]`."""
    sizes = x.shape[1:3]
    before, after = zip(*jax.lax.padtype_to_pads(sizes, kernel_size, strides, "SAME"))
    padded = jnp.pad(x, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
    rows, columns = (-(-size // stride) * stride for size, stride in zip(sizes, strides))
    views = [
        padded[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
    return jnp.concatenate(views, axis=-1)


def _down_kernel_gradient(x: jax.Array, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]`, `[B, ceil(H / 2), ceil(W / 2), F]` -> `[4, 4, C, F]`, as `kernel`."""
    (result,) = jax.linear_transpose(lambda k: native_conv(x, k, (2, 2)), kernel)(gradient)
    return result


def _flip(kernel: jax.Array) -> jax.Array:
    """The kernel of the adjoint: `[kh, kw, C, F]` -> `[kh, kw, F, C]`, turned by 180 degrees."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


class Conv(nn.Module):
    """`nn.Conv` with padding SAME: the same parameters, initial values and results."""

    features: int
    kernel_size: Pair = (3, 3)
    strides: Pair = (1, 1)
    use_bias: bool = True
    implementation: Implementation = "auto"
    dtype: str = "float32"  # of the products; parameters and the result are float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), features]`."""
        kernel, bias = _parameters(self, x.shape[-1])
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return native_conv(x, kernel, self.strides)

        split = conv4x4_down if self.strides == (2, 2) else conv3x3_to_few
        return _finished(_form_of(self, native, split)(x, kernel), bias)


class ConvTranspose(nn.Module):
    """`nn.ConvTranspose` with padding SAME: the same parameters, initial values and results."""

    features: int
    kernel_size: Pair = (4, 4)
    strides: Pair = (2, 2)
    use_bias: bool = True
    implementation: Implementation = "auto"
    dtype: str = "float32"  # as in `Conv`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H * stride, W * stride, features]`."""
        kernel, bias = _parameters(self, x.shape[-1])
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)

        def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return native_conv_transpose(x, kernel, self.strides)

        return _finished(_form_of(self, native, conv4x4_up)(x, kernel), bias)


def _parameters(module: Conv | ConvTranspose, channels: int) -> tuple[jax.Array, jax.Array | None]:
    shape = (*module.kernel_size, channels, module.features)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", nn.initializers.zeros, (module.features,), jnp.float32)


def _finished(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = y.astype(jnp.float32)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


Function = Callable[[jax.Array, jax.Array], jax.Array]


def _form_of(module: Conv | ConvTranspose, native: Function, split: Function) -> Function:
    features = module.features if isinstance(module, Conv) else None
    shape = (module.kernel_size, module.strides, features)
    if module.implementation == "split" and not _is_written(*shape):
        raise ValueError(f'implementation "split": kernel {module.kernel_size}, strides {module.strides}')
    if module.implementation == "portable" and choose_implementation(*shape, "cpu") == "split":
        return lambda x, kernel: jax.lax.platform_dependent(x, kernel, cpu=split, default=native)
    chosen = (
        choose_implementation(*shape, jax.default_backend())
        if module.implementation == "auto"
        else module.implementation
    )
    return split if chosen == "split" else native
