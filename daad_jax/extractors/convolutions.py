"""Convolutions of frozen networks, with maps `[B, H, W, C]` and batch norm already folded into the weights.

XLA:CPU computes a depthwise convolution tens of times slower than the machine allows. The implementation
"split" is for CPUs: it adds shifted and scaled maps, with the same result as the native operation. It takes
the images one by one, so that the maps of an image stay in the processor's cache.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

# `models/layers.py` has the same names. "native" and "split" force one implementation, "auto" takes the
# faster one for the backend of this process, "portable" chooses on the device that runs the program.
Implementation = Literal["auto", "native", "split", "portable"]
Pads = tuple[tuple[int, int], tuple[int, int]]
Params = dict[str, Any]

NHWC = ("NHWC", "HWIO", "NHWC")


def select_implementation(
    implementation: Implementation, split: Callable[..., Any], native: Callable[..., Any], *operands: Any
) -> Any:
    """Calls `split` or `native` with the operands, as `implementation` says."""
    if implementation == "portable":
        return jax.lax.platform_dependent(*operands, cpu=split, default=native)
    on_cpu = implementation == "split" or (implementation == "auto" and jax.default_backend() == "cpu")
    return (split if on_cpu else native)(*operands)


def map_images(
    function: Callable[[jax.Array], tuple[jax.Array, ...]], images: jax.Array
) -> tuple[jax.Array, ...]:
    """Calls `function` with one image `[1, H, W, C]` after the other, and joins the maps `[1, h, w, C]`."""
    if isinstance(images.shape[0], int) and images.shape[0] == 1:  # in an export, the batch is not an int
        return function(images)
    return jax.lax.map(lambda image: tuple(y[0] for y in function(image[None])), images)


def same_pads(size: tuple[int, ...], kernel_size: int, stride: int) -> Pads:
    """Returns TensorFlow's padding SAME, before and after the rows and the columns of a map."""
    rows, columns = jax.lax.padtype_to_pads(size, (kernel_size, kernel_size), (stride, stride), "SAME")
    return rows, columns


def along_channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Reshapes `[C]`, a value for each channel, to as many axes as `like` has."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def convolve(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """Applies XLA's convolution, and adds the bias: `[B, H, W, C]`, `[k, k, C, F]` -> `[B, h, w, F]`."""
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), pads, dimension_numbers=NHWC, precision="highest"
    )
    return y + along_channels(layer["bias"], y)


def pointwise(x: jax.Array, layer: Params) -> jax.Array:
    """Applies a 1x1 convolution: `[B, H, W, C]`, kernel `[C, F]` -> `[B, H, W, F]`."""
    y = jnp.matmul(x, layer["kernel"], precision="highest")
    return y + along_channels(layer["bias"], y)


def depthwise(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """Applies XLA's depthwise convolution, adds the bias: `[B, H, W, C]`, `[k, k, C]` -> `[B, h, w, C]`."""
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"][:, :, None],
        (stride, stride),
        pads,
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
        precision="highest",
    )
    return y + along_channels(layer["bias"], y)


def depthwise_shifts(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """Computes `depthwise` as a sum of shifted maps, each scaled by one tap of the kernel."""
    kernel = layer["kernel"]
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = ((length - size) // stride * stride + 1 for length in padded.shape[1:3])
    y = along_channels(layer["bias"], x)
    for i in range(size):
        # Each row of taps has its own sum, because a processor computes several short sums at the same time.
        terms = [
            padded[:, i : i + rows : stride, j : j + columns : stride] * along_channels(kernel[i, j], x)
            for j in range(size)
        ]
        y = y + functools.reduce(jnp.add, terms)
    return y
