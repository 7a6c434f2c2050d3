"""The discriminator: a feature extractor f_D, whose distances also score, and a real/fake classifier."""

import chex
import flax.linen as nn
import jax

from daad_jax.config import ModelConfig
from daad_jax.models.layers import Conv
from daad_jax.models.norm import BatchNorm

SMALLEST_MAP = 4  # Skip-GANomaly's extractor halves the map down to 4 x 4
LEAK = 0.2


class Discriminator(nn.Module):
    """4x4 stride-2 convolutions doubling the channels, batch norm, LeakyReLU; then one logit."""

    config: ModelConfig
    axis_name: str | None = None
    dtype: str = "float32"  # of the convolutions' products

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Judges images.

        Args:
            images: `[B, H, W, C]` in [0, 1].
            train: batch statistics (and their running means updated) instead of running ones.

        Returns:
            Logits `[B]` (positive: real), and the extractor's maps `[B, h, w, F]`, one a layer; the
            last of them is f_D.
        """
        chex.assert_rank(images, 4)
        x = images
        maps: list[jax.Array] = []
        while not maps or min(x.shape[1:3]) >= 2 * SMALLEST_MAP:
            layer = len(maps)
            width = min(self.config.discriminator_width * 2**layer, self.config.max_width)
            conv = Conv(width, (4, 4), (2, 2), use_bias=layer == 0, dtype=self.dtype, name=f"down{layer}")
            x = conv(x)
            # The first layer sees pixels as they are, as in DCGAN.
            if layer > 0:
                x = BatchNorm(self.axis_name, train, name=f"down{layer}_norm")(x)
            x = jax.nn.leaky_relu(x, LEAK)
            maps.append(x)
        logits = nn.Dense(1, name="classifier")(x.reshape(x.shape[0], -1))
        return logits[:, 0], tuple(maps)
