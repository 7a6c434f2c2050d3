"""The plain convolution, and 3x3 convolutions that read or write an image: maps with few channels.

XLA:CPU spends most of the time of such a layer on copies of the pixels, so other operations replace it there.
"""

import functools

import jax
import jax.numpy as jnp

Pair = tuple[int, int]
Operands = tuple[jax.Array, jax.Array]

NHWC = ("NHWC", "HWIO", "NHWC")
MAX_IMAGE_CHANNELS = 8  # an output with more channels is a feature map
# With more products per pixel and tap, the plain convolution is faster at reading an image.
MAX_IMAGE_PRODUCTS = 96


def native_conv(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Computes a convolution with padding SAME by XLA's own operation.

    `[B, H, W, C]` and `[kh, kw, C, F]` -> `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=NHWC)


def reads_image(channels: int, features: int) -> bool:
    """Tells whether `conv3x3_from_image` is the faster form of a 3x3 layer with stride 1."""
    return channels * features <= MAX_IMAGE_PRODUCTS and features > channels


@jax.custom_vjp
def conv3x3_to_image(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution with stride 1 and padding SAME, for an output with few channels.

    `[B, H, W, C]` and `[3, 3, C, F]` -> `[B, H, W, F]`.
    """
    batch, rows, columns, channels = x.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = (x.reshape(-1, channels) @ taps).reshape(batch, rows, columns, -1)
    padded = jnp.pad(products, ((0, 0), (1, 1), (1, 1), (0, 0)))
    per_tap = jnp.split(padded, 9, axis=-1)  # each tap's products, at the pixel of x that the tap multiplied
    shifted = [per_tap[3 * i + j][:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, shifted)


@jax.custom_vjp
def conv3x3_from_image(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution with stride 1 and padding SAME, for an input and an output with few channels.

    `[B, H, W, C]` and `[3, 3, C, F]` -> `[B, H, W, F]`.
    """
    rows, columns, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    terms = [
        padded[:, i : i + rows, j : j + columns, c : c + 1] * kernel[i, j, c].reshape(1, 1, 1, -1)
        for i in range(3)
        for j in range(3)
        for c in range(channels)
    ]
    return functools.reduce(jnp.add, terms)


def _to_image_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3_to_image(x, kernel), (x, kernel)


def _to_image_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Computes the input's gradient natively, and the kernel's from x and patches of the gradient."""
    x, kernel = operands
    channels, features = kernel.shape[2:]
    (input_gradient,) = jax.linear_transpose(lambda x: native_conv(x, kernel, (1, 1)), x)(gradient)
    patches = extract_patches(gradient, (3, 3), (1, 1)).reshape(-1, 9 * features)
    product = patches.T @ x.reshape(-1, channels)
    return input_gradient, product.reshape(3, 3, features, channels)[::-1, ::-1].swapaxes(2, 3)


def _from_image_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3_from_image(x, kernel), (x, kernel)


def _from_image_backward(operands: Operands, gradient: jax.Array) -> Operands:
    """Computes both gradients natively."""
    _, pull = jax.vjp(lambda x, kernel: native_conv(x, kernel, (1, 1)), *operands)
    return pull(gradient)  # type: ignore[no-any-return]


conv3x3_to_image.defvjp(_to_image_forward, _to_image_backward)
conv3x3_from_image.defvjp(_from_image_forward, _from_image_backward)


def extract_patches(x: jax.Array, kernel_size: Pair, strides: Pair) -> jax.Array:
    """Extracts the windows of a convolution with padding SAME, each as one vector.

    `[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), kh * kw * C]`.
    """
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
