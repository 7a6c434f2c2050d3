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
    """Encoder, a memory per scale, decoder.

    Scale 1 is the bottleneck at 1 / 2^levels, scales 2.. are the skips going up to 1/2; full
    resolution has neither skip nor memory. A scale with 0 memory items passes its features
    unchanged, which is how AE and AE+Skip are built.
    """

    config: ModelConfig
    channels: int
    axis_name: str | None = None
    implementation: Implementation = "auto"  # of the convolutions
    dtype: str = "float32"  # of the convolutions' products

    def width(self, level: int) -> int:
        """Channels at 1 / 2^level of the full resolution."""
        return min(self.config.base_width * 2**level, self.config.max_width)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, Usage]:
        """Reconstructs images.

        Args:
            images: `[B, H, W, C]` in [0, 1]; H and W multiples of 2^levels.
            train: batch statistics (and their running means updated) instead of running ones.

        Returns:
            Reconstructions `[B, H, W, C]` in [0, 1], and per memory its usage.
        """
        chex.assert_rank(images, 4)
        chex.assert_axis_dimension(images, 3, self.channels)
        levels = self.config.levels
        same: Any = {"implementation": self.implementation, "dtype": self.dtype}
        # No bias before batch norm: its gradient is 0, and Adam would make steps of the rounding.
        stem = Conv(self.width(0), use_bias=False, name="stem", **same)
        features = [self._unit(stem, images, train)]
        for level in range(1, levels + 1):
            down = Conv(self.width(level), (4, 4), (2, 2), use_bias=False, name=f"down{level}", **same)
            features.append(self._unit(down, features[-1], train))

        usage: Usage = {}
        x = self._remember(1, features[levels], usage)
        for level in reversed(range(levels)):
            up = ConvTranspose(self.width(level), (4, 4), (2, 2), use_bias=False, name=f"up{level}", **same)
            x = self._unit(up, x, train)
            scale = levels - level + 1
            if level > 0 and self.config.skips[scale - 2]:
                x = jnp.concatenate([x, self._remember(scale, features[level], usage)], axis=-1)
        logits = Conv(self.channels, name="output", **same)(x)
        return jax.nn.sigmoid(logits), usage

    def _unit(self, conv: Conv | ConvTranspose, x: jax.Array, train: bool) -> jax.Array:
        """ConvBNReLU."""
        return jax.nn.relu(BatchNorm(self.axis_name, train, name=f"{conv.name}_norm")(conv(x)))

    def _remember(self, scale: int, features: jax.Array, usage: Usage) -> jax.Array:
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
