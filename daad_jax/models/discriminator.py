"""The discriminator: a feature extractor f_D, which also serves the anomaly score, and a classifier."""

import chex
import flax.linen as nn
import jax

from daad_jax.config import ModelConfig
from daad_jax.models.layers import Conv
from daad_jax.models.norm import BatchNorm

SMALLEST_MAP = 4  # pixels; Skip-GANomaly's extractor halves the map down to 4 x 4
LEAK = 0.2  # slope of LeakyReLU below zero


class Discriminator(nn.Module):
    """Feature extractor f_D and real/fake classifier.

    A layer of the extractor is a 4x4 convolution with stride 2, which doubles the channels, batch norm and
    LeakyReLU. The classifier is one dense layer with one logit.
    """

    config: ModelConfig
    axis_name: str | None = None
    dtype: str = "float32"  # of the convolutions' products

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Extracts features of images and classifies the images as real or fake.

        Args:
            images: `[B, H, W, C]` in [0, 1].
            train: True normalises with the batch's statistics and updates the running statistics; False
                normalises with the running statistics.

        Returns:
            Logits `[B]`, positive for real images, and the feature maps `[B, h, w, F]` of all layers. The
            last map is f_D.
        """
        chex.assert_rank(images, 4)
        x = images
        maps: list[jax.Array] = []
        while not maps or min(x.shape[1:3]) >= 2 * SMALLEST_MAP:
            layer = len(maps)
            width = min(self.config.discriminator_width * 2**layer, self.config.max_width)
            conv = Conv(width, (4, 4), (2, 2), use_bias=layer == 0, dtype=self.dtype, name=f"down{layer}")
            x = conv(x)
            # As in DCGAN, the first layer has no batch norm, so that it sees the pixels as they are.
            if layer > 0:
                x = BatchNorm(self.axis_name, train, name=f"down{layer}_norm")(x)
            x = jax.nn.leaky_relu(x, LEAK)
            maps.append(x)
        logits = nn.Dense(1, name="classifier")(x.reshape(x.shape[0], -1))
        return logits[:, 0], tuple(maps)
