"""Computes baselines: scores without a network. A figure of a network means nothing unless it beats them."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.scoring.filters import smooth

COSINE_SMOOTHING_PX = 1.0  # sigma of the Gaussian before the cosine distance
DISTANCES_AT_ONCE = 2**24  # float32 distances in memory: 64 MiB
EPSILON = 1e-12


class Nearest(NamedTuple):
    """The nearest of M reference images for each of N images.

    Attributes:
        indices: the index of the nearest reference, int `[N]`.
        squares: the squared L2 distance to that reference, float32 `[N]`.
    """

    indices: np.ndarray
    squares: np.ndarray


def mean_intensity(images: np.ndarray) -> np.ndarray:
    """Computes the mean over all pixels and channels: uint8 or uint16 `[N, H, W, C]` -> `[N]` in [0, 1]."""
    return images.mean(axis=(1, 2, 3)) / np.iinfo(images.dtype).max


def best_direction_auroc(labels: np.ndarray, values: np.ndarray) -> tuple[float, bool]:
    """Computes the AUROC of `values` and of -`values`, and returns the larger one.

    The labels choose the direction. The result is therefore an upper bound, not a figure of a method.

    Args:
        labels: the labels, 0 (normal) or 1 (anomalous), `[N]`.
        values: the values of the images, `[N]`.

    Returns:
        The larger AUROC, and whether it belongs to `values` (else to -`values`).
    """
    auroc = float(roc_auc_score(labels, values))
    return max(auroc, 1 - auroc), auroc >= 0.5


def prepare_images(images: np.ndarray, distance: str) -> np.ndarray:
    """Prepares images for `find_nearest`, so that its L2 distance equals the wanted distance.

    Args:
        images: the images, uint8 or uint16 `[N, H, W, C]`.
        distance: "l2" for the pixels in [0, 1], or "cosine" for smoothed pixels scaled to length 1. With
            "cosine", half of a squared distance is 1 - cos.

    Returns:
        The prepared images, float32 `[N, H, W, C]`.
    """
    pixels = images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)
    if distance == "l2":
        return pixels
    pixels = np.asarray(smooth(pixels, COSINE_SMOOTHING_PX))  # type: ignore[arg-type]
    lengths = np.linalg.norm(pixels.reshape(len(pixels), -1), axis=1)
    return pixels / np.maximum(lengths, EPSILON).reshape(-1, 1, 1, 1)


def find_nearest(images: np.ndarray, references: np.ndarray) -> Nearest:
    """Finds the nearest reference of every image by exact search.

    Args:
        images: the images, float32 `[N, H, W, C]`.
        references: the reference images, float32 `[M, H, W, C]`.
    """
    flat, others = (x.reshape(len(x), -1) for x in (images, references))
    # Centring changes no distance. It makes the terms of |a|^2 - 2ab + |b|^2 small, so that their float32 sum
    # loses fewer digits.
    centre = others.mean(axis=0)
    centred = others - centre
    squared_norms = np.sum(centred**2, axis=1)
    rows = max(1, DISTANCES_AT_ONCE // len(others))
    indices, squares = [], []
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        nearest = np.argmin(squared_norms - 2 * (part - centre) @ centred.T, axis=1)
        indices.append(nearest)
        squares.append(np.sum((part - others[nearest]) ** 2, axis=1))
    return Nearest(np.concatenate(indices), np.concatenate(squares))


def difference_maps(images: np.ndarray, references: np.ndarray, nearest: Nearest, sigma: float) -> np.ndarray:
    """Computes heat maps: the root of the smoothed squared difference from the nearest reference.

    Args:
        images: the images that `find_nearest` got, float32 `[N, H, W, C]`.
        references: the references that `find_nearest` got, float32 `[M, H, W, C]`.
        nearest: the result of `find_nearest`.
        sigma: the standard deviation of the Gaussian, in pixels.

    Returns:
        The heat maps, float32 `[N, H, W]`.
    """
    square = np.mean((images - references[nearest.indices]) ** 2, axis=-1, keepdims=True)
    return np.sqrt(np.maximum(np.asarray(smooth(square, sigma))[..., 0], 0))  # type: ignore[arg-type]


def correct_brightness(images: np.ndarray, mean: float) -> np.ndarray:
    """Scales every image to the same mean intensity, so that brightness cannot tell images apart.

    Args:
        images: the images, uint8 or uint16 `[N, H, W, C]`.
        mean: the mean intensity to reach, in [0, 1].

    Returns:
        The scaled images, `[N, H, W, C]`, of the same type.
    """
    gains = mean / np.maximum(mean_intensity(images), EPSILON)
    largest = np.iinfo(images.dtype).max
    return np.clip(np.rint(images * gains.reshape(-1, 1, 1, 1)), 0, largest).astype(images.dtype)
