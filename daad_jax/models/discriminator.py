"""The discriminator: a feature extractor f_D, which also serves the anomaly score, and a classifier."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from daad_jax.config import ModelConfig
from daad_jax.models.layers import Conv
from daad_jax.models.norm import BatchNorm
from daad_jax.models.packing import choose_grid, factor_of, pack, unpack

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
        # A TPU waits for bytes, see the generator.
        keeps_maps = train and jax.default_backend() == "tpu"
        grid = self._choose_grid(images) if keeps_maps else 0
        x = pack(images, factor_of(0, grid))
        maps: list[jax.Array] = []
        for layer, width in enumerate(self._widths(images)):
            packing = (factor_of(layer, grid), factor_of(layer + 1, grid))
            conv = Conv(
                width, (4, 4), (2, 2), use_bias=layer == 0, dtype=self.dtype, packing=packing,
                name=f"down{layer}",
            )  # fmt: skip
            x = conv(x)
            # As in DCGAN, the first layer has no batch norm, so that it sees the pixels as they are.
            if layer > 0:
                x = BatchNorm(self.axis_name, train, packing[1], name=f"down{layer}_norm")(x)
            x = jax.nn.leaky_relu(x, LEAK)
            x = x.astype(self.dtype) if keeps_maps else x
            maps.append(unpack(x, packing[1]).astype(jnp.float32))
        x = maps[-1]
        logits = nn.Dense(1, name="classifier")(x.reshape(x.shape[0], -1))
        return logits[:, 0], tuple(maps)

    def _widths(self, images: jax.Array) -> list[int]:
        """Lists the channels of each layer's map. The last layer's map cannot be halved again."""
        widths: list[int] = []
        smaller_side = min(images.shape[1:3])
        while not widths or smaller_side >= 2 * SMALLEST_MAP:
            widths.append(min(self.config.discriminator_width * 2 ** len(widths), self.config.max_width))
            smaller_side = -(-smaller_side // 2)
        return widths

    def _choose_grid(self, images: jax.Array) -> int:
        """Chooses the level to which finer maps are packed, see `packing`."""
        return choose_grid(len(images), [images.shape[3], *self._widths(images)], images.shape[1:3])
