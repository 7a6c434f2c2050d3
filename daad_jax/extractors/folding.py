"""Folds a convolution and its batch norm into one layer: a kernel and a bias."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.extractors.convolutions import Params


def abstract_layer(*kernel: int) -> Params:
    """Returns the shapes of a folded layer. The last axis of `kernel` has the output's channels."""
    return {
        "kernel": jax.ShapeDtypeStruct(kernel, jnp.float32),
        "bias": jax.ShapeDtypeStruct(kernel[-1:], jnp.float32),
    }


def fold_batch_norm(
    tensors: Mapping[str, np.ndarray], convolution: str, norm: str, epsilon: float
) -> dict[str, np.ndarray]:
    """Computes one layer in place of a convolution without bias and its batch norm, in float64.

    Args:
        tensors: tensors by PyTorch's names; the kernel is `[F, C, k, k]`.
        convolution: the name of the convolution.
        norm: the name of the batch norm.
        epsilon: the number that batch norm adds to the variance.

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
