"""DINOv2's small vision transformer in plain JAX, with weights from a safetensors file.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, in the form and with
the names of timm (`vit_small_patch14_dinov2`). A layer is a block. Its map holds the tokens of the patches
after the block, before the final norm, without the class token.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.extractors.convolutions import Implementation, Params, along_channels
from daad_jax.extractors.pixels import normalise_imagenet
from daad_jax.extractors.safetensors_file import Weights

BLOCKS = 12
WIDTH = 384
HIDDEN = 4 * WIDTH
HEADS = 6
PATCH = 14
TRAINED_SIDE = 37  # the position embedding was trained on images with this many patches in a row
LAYER_NORM_EPSILON = 1e-6
EXAMPLE = "timm/vit_small_patch14_dinov2.lvd142m"

# The tensors of a block, with their shapes in the file. Reading transposes tensors with two axes.
BLOCK_SHAPES: dict[str, tuple[int, ...]] = {
    "norm1.weight": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "ls1.gamma": (WIDTH,),
    "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "mlp.fc1.weight": (HIDDEN, WIDTH),
    "mlp.fc1.bias": (HIDDEN,),
    "mlp.fc2.weight": (WIDTH, HIDDEN),
    "mlp.fc2.bias": (WIDTH,),
    "ls2.gamma": (WIDTH,),
}
EMBEDDING_SHAPES: dict[str, tuple[int, ...]] = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, 1 + TRAINED_SIDE**2, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
    "patch_embed.proj.bias": (WIDTH,),
}


def _tensors(blocks: int) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yields group and name in our parameters, and name and shape in the file, for each tensor."""
    for name, shape in EMBEDDING_SHAPES.items():
        yield "embedding", name, name, shape
    for block in range(blocks):
        for name, shape in BLOCK_SHAPES.items():
            yield f"block_{block:02d}", name, f"blocks.{block}.{name}", shape


def _our_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """Transposes a tensor of the file for our matrix products: the output's axis comes last."""
    if name == "patch_embed.proj.weight":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, WIDTH)  # a patch is a vector (row, column, colour)
    return np.ascontiguousarray(tensor.T) if tensor.ndim == 2 else tensor


class SmallDino:
    """The network. `Extractor` documents the methods."""

    layer_count = BLOCKS
    size_multiple = PATCH

    def stride(self, layer: int) -> int:
        return PATCH

    def channels(self, layer: int) -> int:
        return WIDTH

    def abstract_params(self, layers: tuple[int, ...]) -> Params:
        params: Params = {}
        for group, name, _, shape in _tensors(max(layers) + 1):
            like = _our_layout(name, np.broadcast_to(np.float32(0), shape))
            params.setdefault(group, {})[name] = jax.ShapeDtypeStruct(like.shape, jnp.float32)
        return params

    def load(self, layers: tuple[int, ...], weights: str) -> Params:
        file = Weights(weights, "dinov2_vits14", EXAMPLE)
        params: Params = {}
        for group, name, name_in_file, shape in _tensors(max(layers) + 1):
            params.setdefault(group, {})[name] = _our_layout(name, file.read(name_in_file, shape))
        return params

    def apply(
        self, params: Params, images: jax.Array, layers: tuple[int, ...], implementation: Implementation
    ) -> tuple[jax.Array, ...]:
        """Ignores `implementation`, because matrix products are fast on every backend."""
        rows, columns = (size // PATCH for size in images.shape[1:3])
        x = _embed(normalise_imagenet(images), params["embedding"])
        maps = []
        for block in range(max(layers) + 1):
            x = _run_block(x, params[f"block_{block:02d}"])
            maps.append(x)
        return tuple(maps[layer][:, 1:].reshape(-1, rows, columns, WIDTH) for layer in layers)


def _embed(images: jax.Array, params: Params) -> jax.Array:
    """Maps images `[B, H, W, 3]` to tokens `[B, 1 + patches, WIDTH]`; the first token is the class token."""
    rows, columns = (size // PATCH for size in images.shape[1:3])
    patches = images.reshape(-1, rows, PATCH, columns, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(-1, rows * columns, PATCH * PATCH * 3)
    tokens = _linear(patches, params, "patch_embed.proj")
    positions = params["pos_embed"][0]
    grid = positions[1:].reshape(TRAINED_SIDE, TRAINED_SIDE, WIDTH)
    # Resize one axis after the other, by [rows, TRAINED_SIDE] and [columns, TRAINED_SIDE].
    grid = jnp.matmul(_resize_weights(rows), grid.reshape(TRAINED_SIDE, -1), precision="highest")
    grid = grid.reshape(rows, TRAINED_SIDE, WIDTH)
    grid = jnp.matmul(_resize_weights(columns)[None], grid, precision="highest")
    tokens = tokens + grid.reshape(1, -1, WIDTH)
    first = params["cls_token"] + positions[None, :1]
    return jnp.concatenate([jnp.broadcast_to(first, (tokens.shape[0], 1, WIDTH)), tokens], axis=1)


def _resize_weights(side: int) -> np.ndarray:
    """Returns the matrix `[side, TRAINED_SIDE]` that resizes one axis of the position embedding.

    The result equals PyTorch's bicubic interpolation with antialias=True, which timm uses, and
    `jax.image.resize`. The converter to ONNX does not know `jax.image.resize` with antialiasing.
    """
    scale = TRAINED_SIDE / side
    width = max(scale, 1.0)  # a kernel for a smaller map is wider, because it averages
    centres = (np.arange(side) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(TRAINED_SIDE)) / width
    # The cubic kernel of Keys (1981) with a = -0.5.
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _run_block(x: jax.Array, params: Params) -> jax.Array:
    """Applies attention, then a perceptron. Layer norm comes before each, a scale of each channel after."""
    x = x + along_channels(params["ls1.gamma"], x) * _attend(_layer_norm(x, params, "norm1"), params)
    hidden = jax.nn.gelu(_linear(_layer_norm(x, params, "norm2"), params, "mlp.fc1"), approximate=False)
    return x + along_channels(params["ls2.gamma"], x) * _linear(hidden, params, "mlp.fc2")


def _attend(x: jax.Array, params: Params) -> jax.Array:
    """Applies multi-head self-attention: `[B, tokens, WIDTH]` -> the same shape."""
    tokens, depth = x.shape[1], WIDTH // HEADS
    joined = _linear(x, params, "attn.qkv").reshape(-1, tokens, 3, HEADS, depth)
    queries, keys, values = (joined[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
    logits = jnp.matmul(queries * depth**-0.5, keys.transpose(0, 1, 3, 2), precision="highest")
    read = jnp.matmul(jax.nn.softmax(logits, axis=-1), values, precision="highest")
    return _linear(read.transpose(0, 2, 1, 3).reshape(-1, tokens, WIDTH), params, "attn.proj")


def _linear(x: jax.Array, params: Params, name: str) -> jax.Array:
    y = jnp.matmul(x, params[f"{name}.weight"], precision="highest")
    return y + along_channels(params[f"{name}.bias"], y)


def _layer_norm(x: jax.Array, params: Params, name: str) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    weight, bias = (along_channels(params[f"{name}.{part}"], x) for part in ("weight", "bias"))
    return centred * scale * weight + bias
