"""A convolution and its batch norm as one layer: a kernel and a bias."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.extractors.convolutions import Params


def abstract_layer(*kernel: int) -> Params:
    """The shapes of a folded layer, from the shape of its kernel with the output's channels last."""
    return {
        "kernel": jax.ShapeDtypeStruct(kernel, jnp.float32),
        "bias": jax.ShapeDtypeStruct(kernel[-1:], jnp.float32),
    }


def fold_batch_norm(
    tensors: Mapping[str, np.ndarray], convolution: str, norm: str, epsilon: float
) -> dict[str, np.ndarray]:
    """The layer that gives what a convolution without bias and then its batch norm give. Computed in float64.

    Args:
        tensors: with the names of PyTorch; the kernel is `[F, C, k, k]`.
        convolution, norm: the names of the two modules.
        epsilon: what batch norm adds to the variance.

    Returns:
        "kernel" `[k, k, C, F]` and "bias" `[F]`, float32.
    """
    scale, shift, mean, variance = (
        tensors[f"{norm}.{name}"].astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(variance + epsilon)
    kernel = tensors[f"{convolution}.weight"] * factor.reshape(-1, 1, 1, 1)
    return {
        "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32),
        "bias": (shift - mean * factor).astype(np.float32),
    }
