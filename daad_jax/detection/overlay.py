"""A heat map laid over its image."""

import matplotlib as mpl
import numpy as np

COLOURS = mpl.colormaps["inferno"]
FAINT, STRONG = 0.7, 2.0  # heat where colour begins, and where it is full; 1 is where normal images end
COVER = 0.65  # of the picture, by full colour


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image with its heat map laid over, so that what looks normal stays as it is.

    Args:
        image: uint8 `[H, W, 1 or 3]`.
        heat: `[H, W]`, as `Detections.heat`.

    Returns:
        uint8 `[H, W, 3]`.
    """
    strength = np.clip((heat - FAINT) / (STRONG - FAINT), 0, 1)[..., None]
    colour = 255 * COLOURS(0.35 + 0.65 * strength[..., 0])[..., :3]
    grey = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    alpha = COVER * np.minimum(1, 3 * strength)
    return np.rint((1 - alpha) * grey + alpha * colour).astype(np.uint8)
