"""Lays heat maps over images."""

import matplotlib as mpl
import numpy as np

from daad_jax.data.images import to_uint8

COLOURS = mpl.colormaps["inferno"]
FAINT_HEAT, STRONG_HEAT = 0.7, 2.0  # colour begins at the first and is full at the second
MAX_OPACITY = 0.65


def draw_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a heat map over its image. Places that look normal stay as they are.

    Colour begins at a heat of 0.7 and is full at 2; normal images stay mostly below 1.

    Args:
        image: uint8 or uint16 `[H, W, 1 or 3]`, for instance one of `Detections.images`.
        heat: the heat map of this image, `[H, W]`, for instance one of `Detections.heat`.

    Returns:
        uint8 `[H, W, 3]`.
    """
    colour, opacity = _colour(heat)
    image = to_uint8(image)
    grey = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    return np.rint((1 - opacity) * grey + opacity * colour).astype(np.uint8)


def draw_heat(heat: np.ndarray) -> np.ndarray:
    """Draws a heat map as a transparent layer. Laid over the image, it looks like `draw_overlay`.

    Args:
        heat: `[H, W]`.

    Returns:
        Colours and opacity, uint8 `[H, W, 4]`.
    """
    colour, opacity = _colour(heat)
    return np.rint(np.concatenate([colour, 255 * opacity], axis=-1)).astype(np.uint8)


def _colour(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colours `[H, W, 3]` in 0 to 255, and the opacities `[H, W, 1]` in 0 to 1, of a heat map."""
    strength = np.clip((heat - FAINT_HEAT) / (STRONG_HEAT - FAINT_HEAT), 0, 1)[..., None]
    colour = 255 * COLOURS(0.35 + 0.65 * strength[..., 0])[..., :3]
    return colour, MAX_OPACITY * np.minimum(1, 3 * strength)
