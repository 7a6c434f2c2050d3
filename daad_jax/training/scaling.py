"""The units of features: their mean, spread and correlations over the training images."""

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

EPSILON = 1e-6


def measure_scaling(blocks: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """The `mean` and the `transform` of `features.scale` for blocks `[n, D]`.

    Args:
        blocks: of the training images.
        kind: `config.model.feature_scaling`. "whitened" shrinks the correlations by the amount of Ledoit and
            Wolf
            (2004), which needs no choice and suits few blocks as well as many.
    """
    mean = blocks.mean(0, dtype=np.float64)
    spread = np.maximum(blocks.std(0, dtype=np.float64), EPSILON)
    if kind == "raw":
        return {"mean": np.zeros_like(mean, np.float32), "transform": np.ones_like(mean, np.float32)}
    if kind == "standardised":
        return {"mean": mean.astype(np.float32), "transform": (1 / spread).astype(np.float32)}
    standardised = ((blocks - mean) / spread).astype(np.float32)
    shrinkage = float(ledoit_wolf_shrinkage(standardised, assume_centered=True))
    covariance = (standardised.T @ standardised).astype(np.float64) / len(blocks)
    size = len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    transform = (vectors / np.sqrt(np.maximum(values, EPSILON))) / spread[:, None]
    return {"mean": mean.astype(np.float32), "transform": transform.astype(np.float32)}
