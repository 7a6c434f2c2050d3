"""The frozen networks that give features, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.errors import UserError, did_you_mean
from daad_jax.extractors.convolutions import Implementation, Params
from daad_jax.extractors.efficientnet_lite import EfficientNetLite
from daad_jax.extractors.vision_transformer import SmallDino
from daad_jax.extractors.wide_resnet import WideResNet50


class Network(Protocol):
    """The methods of each architecture; `Extractor` documents them."""

    @property
    def layer_count(self) -> int: ...
    @property
    def size_multiple(self) -> int: ...
    def stride(self, layer: int) -> int: ...
    def channels(self, layer: int) -> int: ...
    def abstract_params(self, layers: tuple[int, ...]) -> Params: ...
    def load(self, layers: tuple[int, ...], weights: str) -> Params: ...
    def apply(
        self, params: Params, images: jax.Array, layers: tuple[int, ...], implementation: Implementation
    ) -> tuple[jax.Array, ...]: ...


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into maps of features. It is never trained.

    Attributes:
        name: the name in `config.model.features`.
        title: the architecture and its training, for people.
        default_layers: the layers to read if the user names none.
        network: the architecture.
    """

    name: str
    title: str
    default_layers: tuple[int, ...]
    network: Network

    @property
    def layer_count(self) -> int:
        """The number of layers. They are numbered from 0."""
        return self.network.layer_count

    def check_size(self, height: int, width: int) -> None:
        """Checks whether the network takes images of this size, in pixels.

        Raises:
            UserError: the network does not take images of this size.
        """
        multiple = self.network.size_multiple
        nearest = [max(multiple, round(size / multiple) * multiple) for size in (height, width)]
        if nearest != [height, width]:
            raise UserError(
                f"config.model.features={self.name!r} takes sides that are multiples of {multiple} only, not "
                f"{height} x {width}; set config.data.height={nearest[0]}, "
                f"config.data.width={nearest[1]} and config.data.fit='resize'"
            )

    def stride(self, layer: int) -> int:
        """Returns how many pixels of the image one pixel of the layer's map covers, in each direction."""
        return self.network.stride(layer)

    def channels(self, layer: int) -> int:
        """Returns the number of channels of the layer's map."""
        return self.network.channels(layer)

    def abstract_params(self, layers: Sequence[int]) -> Params:
        """Returns the shapes and types of the parameters that `load` returns. Needs no weights."""
        return self.network.abstract_params(tuple(layers))

    def load(self, layers: Sequence[int], weights: str = "") -> Params:
        """Loads the parameters that the deepest of `layers` needs. Batch norm is folded into convolutions.

        Args:
            layers: the layers that `apply` will return.
            weights: the path of a file or the name of a model on the Hugging Face hub; "" for the weights of
                the network's own package, if it has one.

        Returns:
            Nested dictionaries of float32 NumPy arrays.

        Raises:
            UserError: the weights are missing, damaged or not finite, or belong to another network.
        """
        params = self.network.load(tuple(layers), weights)
        for path, leaf in jax.tree.leaves_with_path(params):
            if not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise UserError(
                    f"{weights or self.name}: {name} of these weights is not finite; give other weights with "
                    "config.model.feature_weights"
                )
        return params

    def apply(
        self,
        params: Any,
        images: jax.Array,
        layers: Sequence[int],
        implementation: Implementation = "auto",
    ) -> tuple[jax.Array, ...]:
        """Computes the maps of layers. The function can be compiled and exported.

        Args:
            params: the parameters that `load` returned for these or deeper layers.
            images: `[B, H, W, 1 or 3]`, float32, grey or RGB in [0, 1]. The function normalises the pixels as
                the network expects.
            layers: numbers of layers, in any order.
            implementation: how convolutions are computed, see `convolutions.py`.

        Returns:
            `[B, h, w, C]` float32 for each of `layers`, in their order; h and w are H and W divided by the
            layer's stride and rounded up.
        """
        if any(size % self.network.size_multiple for size in images.shape[1:3]):
            raise ValueError(f"{self.name} does not take images {images.shape}, see check_size")
        images = images.astype(jnp.float32)
        if images.shape[-1] == 1:
            images = jnp.concatenate([images] * 3, axis=-1)
        return self.network.apply(params, images, tuple(layers), implementation)


EXTRACTORS = {
    extractor.name: extractor
    for extractor in (
        Extractor(
            "efficientnet_lite0",
            "EfficientNet-Lite0, ImageNet",
            (4, 10, 14),
            EfficientNetLite(
                "efficientnet-lite0",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                width=1.0,
                depth=1.0,
            ),
        ),
        Extractor(
            "efficientnet_lite1",
            "EfficientNet-Lite1, ImageNet",
            (6, 14, 19),
            EfficientNetLite(
                "efficientnet-lite1",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                width=1.0,
                depth=1.1,
            ),
        ),
        Extractor(
            "efficientnet_lite2",
            "EfficientNet-Lite2, ImageNet",
            (6, 14, 19),
            EfficientNetLite(
                "efficientnet-lite2",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                width=1.1,
                depth=1.2,
            ),
        ),
        Extractor("wide_resnet50", "WideResNet-50-2, ImageNet", (1, 2), WideResNet50()),
        Extractor("dinov2_vits14", "DINOv2 ViT-S/14, LVD-142M", (5, 8, 11), SmallDino()),
    )
}


def find_extractor(name: str) -> Extractor:
    """Returns the extractor with a name.

    Raises:
        UserError: there is no extractor with this name.
    """
    if name not in EXTRACTORS:
        raise UserError(
            f"config.model.features={name!r}: no such extractor; {did_you_mean(name, EXTRACTORS)}"
        )
    return EXTRACTORS[name]
