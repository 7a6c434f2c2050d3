"""Convolutions that are fast on every backend, with the parameters of `nn.Conv` and `nn.ConvTranspose`.

XLA:CPU computes the weight gradients of strided and transposed convolutions tens of times below
the machine's speed. Written as shifted views x matrix product, they and their gradients run near
the speed of a matrix product. TPU and GPU keep the native operation.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Pair = tuple[int, int]


def choose_form(kernel_size: Pair, strides: Pair, size: Pair, backend: str) -> str:
    """The form of a convolution: "matmul" where that wins and is written, else "native".

    Args:
        kernel_size: of the convolution.
        strides: of the convolution, or of the transposed one.
        size: (H, W) of the input.
        backend: as `jax.default_backend()` says.
    """
    if backend != "cpu":
        return "native"
    if strides == (1, 1):
        return "matmul" if kernel_size == (3, 3) else "native"
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    return "matmul" if (kernel_size, strides) == ((4, 4), (2, 2)) and even else "native"


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, SAME. `[B, H, W, C]` and `[3, 3, C, F]` -> `[B, H, W, F]`."""
    height, width = x.shape[1:3]
    padded = _pad(x)
    views = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return _product(views, kernel)


def conv4x4_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 2, SAME. `[B, H, W, C]`, H and W even, and `[4, 4, C, F]` -> `[B, H/2, W/2, F]`.

    The same as a 2x2 stride-1 convolution of the space-to-depth input.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // 2 + 1, width // 2 + 1
    folded = _pad(x).reshape(batch, rows, 2, columns, 2, channels)
    folded = folded.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, 4 * channels)
    views = [folded[:, i : i + rows - 1, j : j + columns - 1] for i in range(2) for j in range(2)]
    taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return _product(views, taps)


def conv4x4_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed, stride 2, SAME. `[B, H, W, C]` and `[4, 4, C, F]` -> `[B, 2H, 2W, F]`.

    Output row 2m + p meets kernel row 2d + 2 - p at input row m + d: two input rows per parity p.
    """
    batch, height, width, _ = x.shape
    padded = _pad(x)

    def phase(p: int, q: int) -> jax.Array:
        views = [padded[:, p + i : p + i + height, q + j : q + j + width] for i in range(2) for j in range(2)]
        return _product(views, kernel[p::2, q::2])

    phases = jnp.stack([jnp.stack([phase(p, q) for q in range(2)], 3) for p in range(2)], 2)
    return phases.reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


class Conv(nn.Module):
    """`nn.Conv` with padding SAME: the same parameters, initial values and results."""

    features: int
    kernel_size: Pair = (3, 3)
    strides: Pair = (1, 1)
    use_bias: bool = True
    form: str = "auto"  # "native" or "matmul" force one

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H / stride, W / stride, features]`."""
        kernel, bias = _parameters(self, x.shape[-1])
        if _form(self, x) == "native":
            y = jax.lax.conv_general_dilated(
                x, kernel, self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        else:
            y = conv3x3(x, kernel) if self.strides == (1, 1) else conv4x4_down(x, kernel)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
    """`nn.ConvTranspose` with padding SAME: the same parameters, initial values and results."""

    features: int
    kernel_size: Pair = (4, 4)
    strides: Pair = (2, 2)
    use_bias: bool = True
    form: str = "auto"  # "native" or "matmul" force one

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H * stride, W * stride, features]`."""
        kernel, bias = _parameters(self, x.shape[-1])
        if _form(self, x) == "native" or self.strides == (1, 1):
            y = jax.lax.conv_transpose(
                x, kernel, self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        else:
            y = conv4x4_up(x, kernel)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def _parameters(module: Conv | ConvTranspose, channels: int) -> tuple[jax.Array, jax.Array | None]:
    shape = (*module.kernel_size, channels, module.features)
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", nn.initializers.zeros, (module.features,), jnp.float32)


def _form(module: Conv | ConvTranspose, x: jax.Array) -> str:
    if module.form != "auto":
        return module.form
    size = (x.shape[1], x.shape[2])
    # A transposed convolution takes odd sizes too.
    if isinstance(module, ConvTranspose):
        size = (2, 2)
    return choose_form(module.kernel_size, module.strides, size, jax.default_backend())


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _product(views: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """Patches `[B, h, w, taps * C]` times the kernel's taps `[..., F]`, as one matrix product."""
    patches = jnp.concatenate(views, axis=-1)
    return patches @ kernel.reshape(patches.shape[-1], kernel.shape[-1])
