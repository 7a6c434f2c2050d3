"""Convolutions that are fast on every backend, with the parameters of Flax's `nn.Conv`.

XLA:CPU can run a convolution of a dilated input tens of times below the machine's speed. The 4x4
stride-2 layers have three: the transposed convolution, its kernel gradient and, slow on small maps,
the input gradient of the strided convolution. Here the first and the last are four matrix products
whose results overlap and add, and all other gradients are those of a plain strided convolution,
which XLA runs well. TPU and GPU keep the native operations, and so does every other shape: a 3x3
convolution as patches x matrix product gains little or loses, and copies its input nine times.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Pair = tuple[int, int]
Form = Literal["auto", "native", "matmul"]
UpForm = Literal["auto", "native", "matmul", "portable"]

NHWC = ("NHWC", "HWIO", "NHWC")


def choose_form(kernel_size: Pair, strides: Pair, backend: str) -> Form:
    """The form of a convolution, transposed or not: "matmul" where it is written and wins.

    Args:
        kernel_size: (height, width) of the kernel.
        strides: of the convolution; for a transposed one, how many times larger its output is.
        backend: as `jax.default_backend()` says.
    """
    wins = backend == "cpu" and kernel_size == (4, 4) and strides == (2, 2)
    return "matmul" if wins else "native"


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
    return native_conv(x, kernel, (2, 2))


@jax.custom_vjp
def conv4x4_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed, stride 2, SAME. `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, 2H, 2W, F]`."""
    return _overlap_add(x, _flip(kernel), (2 * x.shape[1], 2 * x.shape[2]))


Operands = tuple[jax.Array, jax.Array]


def _down_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_down(x, kernel), (x, kernel)


def _down_backward(operands: Operands, gradient: jax.Array) -> Operands:
    x, kernel = operands
    size = (x.shape[1], x.shape[2])
    return _overlap_add(gradient, kernel, size), _down_kernel_gradient(x, gradient, kernel)


def _up_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv4x4_up(x, kernel), (x, kernel)


def _up_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Up is the adjoint of down: its gradients are those of down, input and output swapped."""
    x, kernel = operands
    flipped = _flip(kernel)
    return conv4x4_down(gradient, flipped), _flip(_down_kernel_gradient(gradient, x, flipped))


conv4x4_down.defvjp(_down_forward, _down_backward)
conv4x4_up.defvjp(_up_forward, _up_backward)


def _overlap_add(y: jax.Array, kernel: jax.Array, size: Pair) -> jax.Array:
    """The adjoint of `conv4x4_down` in its input.

    A stride-2 grid of 4x4 windows is a grid of 2x2 cells, each under two by two windows. Every
    pixel of `y` gives each of the four cells of its window a product of its own.

    Args:
        y: `[B, h, w, F]`, of the shape that down gives.
        kernel: `[4, 4, C, F]`.
        size: (H, W) of down's input, with h = ceil(H / 2) and w = ceil(W / 2).

    Returns:
        `[B, H, W, C]`.
    """
    batch, rows, columns, features = y.shape
    channels = kernel.shape[2]
    # [cell row, cell column, row and column within the cell x C, F]
    cells = kernel.reshape(2, 2, 2, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    cells = cells.reshape(2, 2, 4 * channels, features)
    grid = jnp.zeros((batch, rows + 1, columns + 1, 4 * channels), y.dtype)
    for i in range(2):
        for j in range(2):
            product = jnp.einsum("bhwf,cf->bhwc", y, cells[i, j])
            grid = grid + jnp.pad(product, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)))
    pixels = grid.reshape(batch, rows + 1, columns + 1, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    pixels = pixels.reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    # SAME pads one pixel before and, for an odd size, two after.
    return pixels[:, 1 : 1 + size[0], 1 : 1 + size[1]]


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
    form: Form = "auto"  # "native" or "matmul" force one; "matmul" needs a 4x4 kernel and stride 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), features]`."""
        kernel, bias = _parameters(self, x.shape[-1])
        y = native_conv(x, kernel, self.strides) if _is_native(self) else conv4x4_down(x, kernel)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
    """`nn.ConvTranspose` with padding SAME: the same parameters, initial values and results."""

    features: int
    kernel_size: Pair = (4, 4)
    strides: Pair = (2, 2)
    use_bias: bool = True
    # As in `Conv`; "portable" chooses where the program runs, not where it is traced. Not for training: its
    # gradient would carry what both forms keep.
    form: UpForm = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H * stride, W * stride, features]`."""
        kernel, bias = _parameters(self, x.shape[-1])

        def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return native_conv_transpose(x, kernel, self.strides)

        if self.form == "portable" and choose_form(self.kernel_size, self.strides, "cpu") == "matmul":
            y = jax.lax.platform_dependent(x, kernel, cpu=conv4x4_up, default=native)
        else:
            y = native(x, kernel) if _is_native(self) else conv4x4_up(x, kernel)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def _parameters(module: Conv | ConvTranspose, channels: int) -> tuple[jax.Array, jax.Array | None]:
    shape = (*module.kernel_size, channels, module.features)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", nn.initializers.zeros, (module.features,), jnp.float32)


def _is_native(module: Conv | ConvTranspose) -> bool:
    if module.form == "auto":
        return choose_form(module.kernel_size, module.strides, jax.default_backend()) == "native"
    if module.form == "matmul" and (module.kernel_size, module.strides) != ((4, 4), (2, 2)):
        raise ValueError(f'form "matmul": kernel {module.kernel_size}, strides {module.strides}')
    return module.form != "matmul"
