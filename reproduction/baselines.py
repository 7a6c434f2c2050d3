"""Scores that need no network: what a figure must beat before it says anything of a method."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.scoring.filters import smooth

SMOOTHING = 1.0  # sigma in pixels, of the cosine distance
CHUNK = 2**24  # distances at once
EPSILON = 1e-12


class Nearest(NamedTuple):
    """Of N images the nearest of M references: `indices` `[N]`, and the squared distances `[N]` to it."""

    indices: np.ndarray
    squares: np.ndarray


def mean_intensity(images: np.ndarray) -> np.ndarray:
    """Mean over all pixels and channels: uint8 `[N, H, W, C]` -> `[N]` in [0, 1]."""
    return images.mean(axis=(1, 2, 3)) / 255


def either_direction(labels: np.ndarray, values: np.ndarray) -> tuple[float, bool]:
    """AUROC of whichever of `values` and -`values` has the larger one, and whether it is `values`.

    It reads the labels to choose, so it is what the better direction could reach, not a method's figure.
    """
    auroc = float(roc_auc_score(labels, values))
    return max(auroc, 1 - auroc), auroc >= 0.5


def as_compared(images: np.ndarray, kind: str) -> np.ndarray:
    """What nearest images are searched among, float32 `[N, H, W, C]`.

    Args:
        images: uint8 `[N, H, W, C]`.
        kind: "l2", the pixels in [0, 1], or "cosine": smoothed, then of length 1, so that half the squared
            distance of two is 1 - cos.
    """
    pixels = images.astype(np.float32) / 255
    if kind == "l2":
        return pixels
    pixels = np.asarray(smooth(pixels, SMOOTHING))  # type: ignore[arg-type]
    length = np.linalg.norm(pixels.reshape(len(pixels), -1), axis=1)
    return pixels / np.maximum(length, EPSILON).reshape(-1, 1, 1, 1)


def nearest(images: np.ndarray, references: np.ndarray) -> Nearest:
    """Exact search.

    Args:
        images: float32 `[N, H, W, C]`.
        references: float32 `[M, H, W, C]`.
    """
    flat, others = (x.reshape(len(x), -1) for x in (images, references))
    centre = others.mean(axis=0)  # distances stay, and what is subtracted from one another gets small
    centred = others - centre
    lengths = np.sum(centred**2, axis=1)
    rows = max(1, CHUNK // len(others))
    indices, squares = [], []
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        found = np.argmin(lengths - 2 * (part - centre) @ centred.T, axis=1)
        indices.append(found)
        squares.append(np.sum((part - others[found]) ** 2, axis=1))
    return Nearest(np.concatenate(indices), np.concatenate(squares))


def difference_maps(images: np.ndarray, references: np.ndarray, found: Nearest, sigma: float) -> np.ndarray:
    """Where images differ from their nearest ones: root of the smoothed mean square, `[N, H, W]`.

    Args:
        images: as given to `nearest`.
        references: as given to `nearest`.
        found: what it returned.
        sigma: of the Gaussian, in pixels.
    """
    square = np.mean((images - references[found.indices]) ** 2, axis=-1, keepdims=True)
    return np.sqrt(np.maximum(np.asarray(smooth(square, sigma))[..., 0], 0))  # type: ignore[arg-type]


def levelled(images: np.ndarray, mean: float) -> np.ndarray:
    """Images brought to one mean intensity by a factor each, so that brightness tells them no more apart.

    Args:
        images: uint8 `[N, H, W, C]`.
        mean: the mean intensity to reach, in [0, 1].

    Returns:
        uint8 `[N, H, W, C]`.
    """
    gain = mean / np.maximum(mean_intensity(images), EPSILON)
    return np.clip(np.rint(images * gain.reshape(-1, 1, 1, 1)), 0, 255).astype(np.uint8)
