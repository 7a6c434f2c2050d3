"""WideResNet-50-2 in plain JAX, with weights from a safetensors file.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, in the form of torchvision (`wide_resnet50_2`).
timm uses the same names of tensors. A layer is the output of a stage, torchvision's layer1 to layer4.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from daad_jax.extractors.convolutions import Implementation, Params, convolve, pointwise
from daad_jax.extractors.folding import abstract_layer, fold_batch_norm
from daad_jax.extractors.pixels import normalise_imagenet
from daad_jax.extractors.safetensors_file import Weights

BLOCKS = (3, 4, 6, 3)  # the number of blocks of each stage
INNER = (128, 256, 512, 1024)  # channels of the 3x3 convolutions of each stage; ResNet-50 has half as many
OUTER = (256, 512, 1024, 2048)  # channels of each stage's output
STEM_CHANNELS = 64
BATCH_NORM_EPSILON = 1e-5
EXAMPLE = "timm/wide_resnet50_2.tv_in1k"


class _Layer(NamedTuple):
    """One folded convolution: its place in our parameters, and its names in the file."""

    path: tuple[str, ...]
    convolution: str
    norm: str
    kernel: tuple[int, ...]  # [k, k, C, F]; [C, F] if it is a matrix product


def _layers(stages: int) -> Iterator[_Layer]:
    """Yields the convolutions of the stem and of the first `stages` stages."""
    yield _Layer(("stem",), "conv1", "bn1", (7, 7, 3, STEM_CHANNELS))
    incoming = STEM_CHANNELS
    for stage in range(stages):
        inner, outer = INNER[stage], OUTER[stage]
        for block in range(BLOCKS[stage]):
            place, prefix = (f"stage_{stage}", f"block_{block}"), f"layer{stage + 1}.{block}."
            yield _Layer((*place, "reduce"), f"{prefix}conv1", f"{prefix}bn1", (incoming, inner))
            yield _Layer((*place, "spatial"), f"{prefix}conv2", f"{prefix}bn2", (3, 3, inner, inner))
            yield _Layer((*place, "expand"), f"{prefix}conv3", f"{prefix}bn3", (inner, outer))
            if block == 0:
                names = f"{prefix}downsample.0", f"{prefix}downsample.1"
                yield _Layer((*place, "shortcut"), *names, (incoming, outer))
            incoming = outer


class WideResNet50:
    """The network. `Extractor` documents the methods."""

    layer_count = len(BLOCKS)
    size_multiple = 1

    def stride(self, layer: int) -> int:
        return int(4 * 2**layer)

    def channels(self, layer: int) -> int:
        return OUTER[layer]

    def abstract_params(self, layers: tuple[int, ...]) -> Params:
        params: Params = {}
        for layer in _layers(max(layers) + 1):
            _insert(params, layer.path, abstract_layer(*layer.kernel))
        return params

    def load(self, layers: tuple[int, ...], weights: str) -> Params:
        file = Weights(weights, "wide_resnet50", EXAMPLE)
        params: Params = {}
        for layer in _layers(max(layers) + 1):
            *taps, channels, features = layer.kernel
            kernel_shape = (features, channels, *(taps or (1, 1)))
            tensors = {f"{layer.convolution}.weight": file.read(f"{layer.convolution}.weight", kernel_shape)}
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{layer.norm}.{name}"] = file.read(f"{layer.norm}.{name}", (features,))
            folded = fold_batch_norm(tensors, layer.convolution, layer.norm, BATCH_NORM_EPSILON)
            _insert(params, layer.path, folded | {"kernel": folded["kernel"].reshape(layer.kernel)})
        return params

    def apply(
        self, params: Params, images: jax.Array, layers: tuple[int, ...], implementation: Implementation
    ) -> tuple[jax.Array, ...]:
        """Ignores `implementation`, because XLA runs these convolutions well on every backend."""
        x = normalise_imagenet(images)
        x = jax.nn.relu(convolve(x, params["stem"], 2, ((3, 3), (3, 3))))
        x = _pool(_pool(x, axis=1), axis=2)
        maps = []
        for stage in range(max(layers) + 1):
            blocks = params[f"stage_{stage}"]
            for block in range(BLOCKS[stage]):
                x = _run_block(x, blocks[f"block_{block}"], stride=2 if stage and block == 0 else 1)
            maps.append(x)
        return tuple(maps[layer] for layer in layers)


def _pool(x: jax.Array, axis: int) -> jax.Array:
    """Takes the largest of 3 neighbours at every second place of an axis. No value of `x` is negative.

    The function uses slices, because the converter to ONNX translates `reduce_window` wrongly.
    """
    places = jnp.pad(x, [(int(i == axis), int(i == axis)) for i in range(4)])
    length = (x.shape[axis] - 1) // 2 * 2 + 1
    neighbours = [jax.lax.slice_in_dim(places, i, i + length, 2, axis) for i in range(3)]
    return jnp.maximum(jnp.maximum(neighbours[0], neighbours[1]), neighbours[2])


def _run_block(x: jax.Array, params: Params, stride: int) -> jax.Array:
    """Applies a bottleneck block. The stride is in its 3x3 convolution, as in torchvision."""
    y = jax.nn.relu(pointwise(x, params["reduce"]))
    y = jax.nn.relu(convolve(y, params["spatial"], stride, ((1, 1), (1, 1))))
    y = pointwise(y, params["expand"])
    if "shortcut" in params:
        x = pointwise(x[:, ::stride, ::stride], params["shortcut"])
    return jax.nn.relu(x + y)


def _insert(tree: Params, path: tuple[str, ...], value: Params) -> None:
    """Puts `value` into nested dictionaries, and makes missing dictionaries."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
