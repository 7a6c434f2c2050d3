"""Convolutions of frozen networks, with maps `[B, H, W, C]` and batch norm already folded into the weights.

XLA:CPU computes a depthwise convolution tens of times slower than the machine allows. The "split"
implementation is for CPUs: a depthwise convolution is a sum of shifted, scaled maps, and a convolution that reads an image is
a product of its patches with the kernel. Both give what the native operation gives.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

# The names are those of `models/layers.py`. "native" and "split" force one implementation, "auto" takes the
# faster one for the backend of this process, "portable" chooses on the device that runs the program.
Implementation = Literal["auto", "native", "split", "portable"]
Pads = tuple[tuple[int, int], tuple[int, int]]
Params = dict[str, Any]

NHWC = ("NHWC", "HWIO", "NHWC")


def select_implementation(
    implementation: Implementation, split: Callable[..., Any], native: Callable[..., Any], *operands: Any
) -> Any:
    """Calls `split` or `native` with the operands: the one that `implementation` asks for."""
    if implementation == "portable":
        return jax.lax.platform_dependent(*operands, cpu=split, default=native)
    on_cpu = implementation == "split" or (implementation == "auto" and jax.default_backend() == "cpu")
    return (split if on_cpu else native)(*operands)


def same_pads(size: tuple[int, ...], kernel_size: int, stride: int) -> Pads:
    """The padding SAME of TensorFlow, before and after the rows and the columns of a map."""
    rows, columns = jax.lax.padtype_to_pads(size, (kernel_size, kernel_size), (stride, stride), "SAME")
    return rows, columns


def convolve(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """XLA's convolution, plus the bias: `[B, H, W, C]`, kernel `[k, k, C, F]` -> `[B, h, w, F]`."""
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), pads, dimension_numbers=NHWC, precision="highest"
    )
    return y + layer["bias"]


def convolve_patches(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """`convolve` as a product of patches and kernel, for an input with few channels."""
    kernel = layer["kernel"]
    patches = jnp.concatenate(_taps(x, kernel.shape[0], stride, pads), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1]) + layer["bias"]


def pointwise(x: jax.Array, layer: Params) -> jax.Array:
    """A 1x1 convolution: `[B, H, W, C]`, kernel `[C, F]` -> `[B, H, W, F]`."""
    return jnp.matmul(x, layer["kernel"], precision="highest") + layer["bias"]


def depthwise(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """XLA's depthwise convolution, plus the bias: `[B, H, W, C]`, kernel `[k, k, C]` -> `[B, h, w, C]`."""
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"][:, :, None],
        (stride, stride),
        pads,
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
        precision="highest",
    )
    return y + layer["bias"]


def depthwise_shifts(x: jax.Array, layer: Params, stride: int, pads: Pads) -> jax.Array:
    """`depthwise` as a sum of shifted maps, each scaled by one tap of the kernel."""
    kernel = layer["kernel"]
    scales = kernel.reshape(-1, kernel.shape[-1])
    terms = [tap * scale for tap, scale in zip(_taps(x, kernel.shape[0], stride, pads), scales)]
    return functools.reduce(jnp.add, terms) + layer["bias"]


def _taps(x: jax.Array, kernel_size: int, stride: int, pads: Pads) -> list[jax.Array]:
    """The pixel of the padded map that each tap of a kernel sees: k * k maps `[B, h, w, C]`, row by row."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (
        (size - kernel_size) // stride + 1 for size in padded.shape[1:3]
    )  # the places of the kernel
    return [
        padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]
