"""Measures the units of features: mean, spread and correlations over the training images."""

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from daad_jax.errors import UserError

EPSILON = 1e-6
SMALLEST_SPREAD = 1e-3  # of a channel, in units of the average channel's


def measure_scaling(blocks: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Measures the `mean` and the `transform` of `features.scale` for blocks `[n, D]`.

    Args:
        blocks: the blocks of the training images.
        kind: `config.model.feature_scaling`. For "whitened", the formula of Ledoit and Wolf (2004) shrinks
            the correlations. It suits few blocks as well as many.

    Raises:
        UserError: a feature is not finite.
    """
    mean = blocks.mean(0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise UserError(
            "the features of the training images are not finite; give other weights with "
            "config.model.feature_weights, or another config.model.features"
        )
    spread = blocks.std(0, dtype=np.float64)
    # A channel that hardly varies would drown all others as soon as it does.
    smallest = SMALLEST_SPREAD * float(spread.mean()) or 1.0
    spread = np.maximum(spread, smallest)
    if kind == "raw":
        return {"mean": np.zeros_like(mean, np.float32), "transform": np.ones_like(mean, np.float32)}
    if kind == "standardised":
        return {"mean": mean.astype(np.float32), "transform": (1 / spread).astype(np.float32)}
    standardised = ((blocks - mean) / spread).astype(np.float32)
    # One block has no correlations.
    shrinkage = float(ledoit_wolf_shrinkage(standardised, assume_centered=True)) if len(blocks) > 1 else 1.0
    covariance = (standardised.T @ standardised).astype(np.float64) / len(blocks)
    size = len(covariance)
    variance = float(np.trace(covariance)) / size or 1.0
    covariance = (1 - shrinkage) * covariance + shrinkage * variance * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    # Turned back to the axes of the channels: axes of eigenvectors change with the last digits of the blocks.
    whitening = (vectors / np.sqrt(np.maximum(values, EPSILON))) @ vectors.T
    transform = whitening / spread[:, None]
    return {"mean": mean.astype(np.float32), "transform": transform.astype(np.float32)}
