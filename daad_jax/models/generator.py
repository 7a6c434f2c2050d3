"""The generator (paper, Fig. 3): a U-Net in which no raw encoder feature reaches the decoder."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from daad_jax.config import ModelConfig
from daad_jax.models.layers import Conv, ConvTranspose, Implementation
from daad_jax.models.memory import BlockMemory
from daad_jax.models.norm import BatchNorm

Usage = dict[str, dict[str, jax.Array]]


class Generator(nn.Module):
    """Encoder, one memory per scale, decoder.

    Scale 1 is the bottleneck at 1 / 2^levels of the resolution. Scales 2, 3, ... are the skips, up to 1/2 of
    the resolution. The full resolution has neither a skip nor a memory. A scale with 0 memory items passes
    its features on unchanged; AE and AE+Skip are built in this way.
    """

    config: ModelConfig
    channels: int
    axis_name: str | None = None
    implementation: Implementation = "auto"  # of the convolutions, see `layers`
    dtype: str = "float32"  # of the convolutions' products
    reads_pixels: bool = True  # pixels are in [0, 1], so the output is a sigmoid; features are not bounded

    def width(self, level: int) -> int:
        """The number of channels at 1 / 2^level of the full resolution."""
        return min(self.config.base_width * 2**level, self.config.max_width)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, Usage]:
        """Reconstructs images.

        Args:
            images: `[B, H, W, C]`, in [0, 1] if they are pixels; H and W multiples of 2^levels.
            train: True normalises with the batch's statistics and updates the running statistics; False
                normalises with the running statistics.

        Returns:
            Reconstructions `[B, H, W, C]`, in [0, 1] if they are pixels, and the usage of every memory by its
            name.
        """
        chex.assert_rank(images, 4)
        chex.assert_axis_dimension(images, 3, self.channels)
        levels = self.config.levels
        options: Any = {"implementation": self.implementation, "dtype": self.dtype}
        # No bias before batch norm: its gradient would be 0 up to rounding, and Adam would turn the rounding
        # into full steps.
        stem = Conv(self.width(0), use_bias=False, name="stem", **options)
        features = [self._unit(stem, images, train)]
        for level in range(1, levels + 1):
            down = Conv(self.width(level), (4, 4), (2, 2), use_bias=False, name=f"down{level}", **options)
            features.append(self._unit(down, features[-1], train))

        usage: Usage = {}
        x = self._remember(1, features[levels], usage)
        for level in reversed(range(levels)):
            up = ConvTranspose(
                self.width(level), (4, 4), (2, 2), use_bias=False, name=f"up{level}", **options
            )
            x = self._unit(up, x, train)
            scale = levels - level + 1
            if level > 0 and self.config.skips[scale - 2]:
                x = jnp.concatenate([x, self._remember(scale, features[level], usage)], axis=-1)
        logits = Conv(self.channels, name="output", **options)(x)
        return jax.nn.sigmoid(logits) if self.reads_pixels else logits, usage

    def _unit(self, conv: Conv | ConvTranspose, x: jax.Array, train: bool) -> jax.Array:
        """Convolution, batch norm and ReLU (ConvBNReLU)."""
        return jax.nn.relu(BatchNorm(self.axis_name, train, name=f"{conv.name}_norm")(conv(x)))

    def _remember(self, scale: int, features: jax.Array, usage: Usage) -> jax.Array:
        """Passes the features of a scale through its memory, and adds the memory's usage to `usage`."""
        items = self.config.memory_items[scale - 1]
        if items == 0:
            return features
        name = f"memory{scale}"
        memory = BlockMemory(
            items,
            self.config.division[scale - 1],
            self.config.temperature,
            self.config.shrink,
            name=name,
        )
        read, usage[name] = memory(features)
        return read
