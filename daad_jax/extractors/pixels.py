"""Normalises pixels as networks expect that were trained on ImageNet by torchvision's recipe."""

import jax
import numpy as np

# Mean and standard deviation of ImageNet's red, green and blue pixels: torchvision, timm.data.constants.
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def normalise_imagenet(images: jax.Array) -> jax.Array:
    """Scales `[B, H, W, 3]` in [0, 1] to mean 0 and standard deviation 1 over ImageNet."""
    return (images - IMAGENET_MEAN.reshape(1, 1, 1, 3)) / IMAGENET_DEVIATION.reshape(1, 1, 1, 3)
