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
from daad_jax.models.packing import choose_grid, factor_of, pack, unpack

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
        """Returns the number of channels at 1 / 2^level of the full resolution."""
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
        # A TPU waits for bytes, so in training its maps stay as they are: uncut, and of the products' type.
        keeps_maps = train and jax.default_backend() == "tpu"
        grid = self._choose_grid(images) if keeps_maps else 0
        packed = [factor_of(level, grid) for level in range(levels + 1)]
        options: Any = {"implementation": self.implementation, "dtype": self.dtype}
        # No bias before batch norm: its gradient would be 0 up to rounding, and Adam would turn the rounding
        # into full steps.
        stem = Conv(self.width(0), use_bias=False, name="stem", packing=(packed[0], packed[0]), **options)
        features = [self._unit(stem, pack(images, packed[0]), train, keeps_maps)]
        for level in range(1, levels + 1):
            down = Conv(
                self.width(level), (4, 4), (2, 2), use_bias=False, name=f"down{level}",
                packing=(packed[level - 1], packed[level]), **options,
            )  # fmt: skip
            features.append(self._unit(down, features[-1], train, keeps_maps))

        usage: Usage = {}
        x, parts = self._remember(1, features[levels], usage, packed[levels], keeps_maps), 1
        for level in reversed(range(levels)):
            up = ConvTranspose(
                self.width(level), (4, 4), (2, 2), use_bias=False, name=f"up{level}",
                packing=(packed[level + 1], packed[level]), parts=parts, **options,
            )  # fmt: skip
            x, parts = self._unit(up, x, train, keeps_maps), 1
            scale = levels - level + 1
            if level > 0 and self.config.skips[scale - 2]:
                read = self._remember(scale, features[level], usage, packed[level], keeps_maps)
                x, parts = jnp.concatenate([x, read], axis=-1), 2
        output = Conv(self.channels, name="output", packing=(packed[0], packed[0]), **options)
        logits = unpack(output(x), packed[0])
        return jax.nn.sigmoid(logits) if self.reads_pixels else logits, usage

    def _choose_grid(self, images: jax.Array) -> int:
        """Chooses the level to which finer maps are packed, see `packing`."""
        widths = [self.width(level) for level in range(self.config.levels + 1)]
        widths[0] = max(widths[0], self.channels)
        return choose_grid(len(images), widths, images.shape[1:3])

    def _unit(self, conv: Conv | ConvTranspose, x: jax.Array, train: bool, keeps_maps: bool) -> jax.Array:
        """Applies a convolution, batch norm and ReLU (ConvBNReLU)."""
        norm = BatchNorm(self.axis_name, train, conv.packing[1], name=f"{conv.name}_norm")
        y = jax.nn.relu(norm(conv(x)))
        return y.astype(self.dtype) if keeps_maps else y

    def _remember(
        self, scale: int, features: jax.Array, usage: Usage, packed: int, keeps_maps: bool
    ) -> jax.Array:
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
            packed,
            keeps_maps,
            name=name,
        )
        read, usage[name] = memory(features)
        return read
