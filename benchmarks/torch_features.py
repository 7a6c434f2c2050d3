"""EfficientNet-Lite's features in PyTorch, for comparison with ours: the same arrays, batch norm folded in.

Tensors are `[B, C, H, W]`. Every measure that PyTorch's users take for speed is taken: batch norm is folded,
ReLU6 works in place, and symmetric padding is left to the convolution.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daad_jax.extractors.convolutions import Params, same_pads
from daad_jax.extractors.efficientnet_lite import EfficientNetLite


class TorchFeatures:
    """The network with our parameters.

    Args:
        network: our description of the network.
        params: what our `load` returns, as deep as the features that shall be computed.
        channels_last: keeps the maps in PyTorch's memory format of this name.
    """

    def __init__(self, network: EfficientNetLite, params: Params, channels_last: bool) -> None:
        self._blocks, self._channels_last = network.blocks, channels_last
        self._layers = {
            f"{group}.{name}": self._convert(layer)
            for group, layers in params.items()
            for name, layer in (layers.items() if group != "stem" else [("", layers)])
        }
        self.depth = len(params) - 1  # blocks

    def _convert(self, layer: Params) -> tuple[Tensor, Tensor]:
        """The kernel in PyTorch's order of axes, `[F, C, k, k]`, and the bias."""
        kernel = np.asarray(layer["kernel"])
        if kernel.ndim == 2:  # a 1x1 layer, [C, F]
            kernel = kernel[None, None]
        elif kernel.ndim == 3:  # a depthwise one, [k, k, C]
            kernel = kernel[:, :, None]
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        return self.arrange(weight), torch.from_numpy(np.array(layer["bias"]))

    def arrange(self, x: Tensor) -> Tensor:
        """The tensor in the chosen memory format."""
        return x.contiguous(
            memory_format=torch.channels_last if self._channels_last else torch.contiguous_format
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images `[B, 3, H, W]` in [0, 1] -> the outputs of all blocks, `[B, C, h, w]`."""
        x = F.hardtanh_(self._convolve((images * 255 - 127) / 128, "stem.", 2), 0, 6)
        maps = []
        for index, block in enumerate(self._blocks[: self.depth]):
            name, y = f"block_{index:02d}.", x
            if block.expansion > 1:
                y = F.hardtanh_(self._convolve(y, f"{name}expand"), 0, 6)
            y = F.hardtanh_(self._convolve(y, f"{name}depthwise", block.stride, y.shape[1]), 0, 6)
            y = self._convolve(y, f"{name}project")
            x = y.add_(x) if block.is_residual else y
            maps.append(x)
        return maps

    def _convolve(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self._layers[name]
        (top, bottom), (left, right) = same_pads(tuple(x.shape[2:]), weight.shape[-1], stride)
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, bias, stride, (top, left), 1, groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, 1, groups)
