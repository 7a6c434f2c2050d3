"""XLA's transposed convolution, and its gradients for the TPU."""

import jax
from jax.experimental.layout import Layout, with_layout_constraint

from daad_jax.models.image_layers import NHWC, Operands, Pair, native_conv
from daad_jax.models.packing import LANES


def native_conv_transpose(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Computes a transposed convolution with padding SAME by XLA's own operation.

    `[B, H, W, C]` and `[kh, kw, C, F]` -> `[B, H * stride, W * stride, F]`.
    """
    return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=NHWC)


def down_kernel_gradient(x: jax.Array, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the kernel's gradient of `conv4x4_down`. The values of `kernel` do not matter.

    `[B, H, W, C]` and `[B, ceil(H / 2), ceil(W / 2), F]` -> `[4, 4, C, F]`.
    """
    (result,) = jax.linear_transpose(lambda k: native_conv(x, k, (2, 2)), kernel)(gradient)
    return result


def flip(kernel: jax.Array) -> jax.Array:
    """Turns a kernel into the adjoint's, by 180 degrees: `[kh, kw, C, F]` -> `[kh, kw, F, C]`."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


@jax.custom_vjp
def native_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `native_conv_transpose` of a 4x4 kernel with stride 2, with gradients for the TPU.

    The gradients are convolutions with stride 2. XLA's own gradient of the kernel first copies the fine map
    into the reverse order. If the kernel is larger than the map, this copy is cheap, and XLA's own gradient
    is used.
    """
    return native_conv_transpose(x, kernel, (2, 2))


def _native_up_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return native_up(x, kernel), (x, kernel)


def _native_up_backward(operands: Operands, gradient: jax.Array) -> Operands:
    x, kernel = operands
    if gradient.size < kernel.size:
        _, pull = jax.vjp(lambda x, kernel: native_conv_transpose(x, kernel, (2, 2)), x, kernel)
        input_gradient, kernel_gradient = pull(gradient)
    else:
        flipped = flip(kernel)
        input_gradient = native_conv(gradient, flipped, (2, 2))
        kernel_gradient = flip(down_kernel_gradient(gradient, x, flipped))
    return input_gradient, _keep_layout(kernel_gradient)


def _keep_layout(gradient: jax.Array) -> jax.Array:
    """Keeps the gradient of a kernel `[kh, kw, C, F]` in the order in which a TPU keeps the kernel.

    XLA may compute the gradient with C and F exchanged in memory. It would then exchange them in the kernel
    and in both of the optimiser's moments before the update, and once more after it. A TPU keeps the kernel
    itself with C and F exchanged if F does not fill the lanes.
    """
    if gradient.shape[-1] % LANES:
        return gradient
    return with_layout_constraint(gradient, Layout((0, 1, 2, 3)))  # type: ignore[no-any-return]


native_up.defvjp(_native_up_forward, _native_up_backward)
