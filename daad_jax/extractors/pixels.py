"""The normalisation of pixels that networks trained on ImageNet by torchvision's recipe expect."""

import jax
import numpy as np

# Of the pixels of ImageNet, red, green and blue: torchvision.transforms and timm.data.constants.
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def normalise_imagenet(images: jax.Array) -> jax.Array:
    """`[B, H, W, 3]` in [0, 1] -> mean 0 and standard deviation 1 over ImageNet."""
    return (images - IMAGENET_MEAN.reshape(1, 1, 1, 3)) / IMAGENET_DEVIATION.reshape(1, 1, 1, 3)
