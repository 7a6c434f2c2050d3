"""DINOv2's ViT-S/14 gives the maps of the same network in PyTorch, with random weights."""

import jax
import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.extractors import vision_transformer
from daad_jax.extractors.extractor import find_extractor
from tests.extractors.images import assert_maps_close, real_or_waves, waves

numpy_files = pytest.importorskip(
    "safetensors.numpy", reason="safetensors is not installed: pip install .[features]"
)
NETWORK = find_extractor("dinov2_vits14")


def random_tensors(blocks):
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) * (0.05 if len(shape) > 1 else 0.3)).astype(np.float32)
        for _, _, name, shape in vision_transformer._tensors(blocks)
    }


def run_pytorch(torch, tensors, images, blocks):
    """The network as timm runs it, written with its names."""
    functional = torch.nn.functional
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def of(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    with torch.inference_mode():
        mean, deviation = (
            torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / deviation
        x = functional.conv2d(x, *of("patch_embed.proj"), stride=14)
        count, _, rows, columns = x.shape
        positions = state["pos_embed"]
        grid = positions[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        first = (state["cls_token"] + positions[:, :1]).expand(count, -1, -1)
        x = torch.cat([first, (x + grid).flatten(2).transpose(1, 2)], 1)
        maps = []
        for block in range(blocks):
            name = f"blocks.{block}."
            y = functional.layer_norm(x, (384,), *of(f"{name}norm1"), 1e-6)
            joined = functional.linear(y, *of(f"{name}attn.qkv"))
            q, k, v = joined.reshape(count, -1, 3, 6, 64).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, -1, 384)
            x = x + state[f"{name}ls1.gamma"] * functional.linear(y, *of(f"{name}attn.proj"))
            y = functional.layer_norm(x, (384,), *of(f"{name}norm2"), 1e-6)
            y = functional.linear(
                functional.gelu(functional.linear(y, *of(f"{name}mlp.fc1"))), *of(f"{name}mlp.fc2")
            )
            x = x + state[f"{name}ls2.gamma"] * y
            maps.append(x[:, 1:].reshape(count, rows, columns, 384).numpy())
    return maps


@pytest.mark.parametrize("images", ["real", "long"])
def test_equal_to_pytorch(tmp_path, images):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")
    images = real_or_waves(112) if images == "real" else waves(28, 14 * 39)
    tensors = random_tensors(3)
    numpy_files.save_file(tensors, tmp_path / "net.safetensors")
    params = NETWORK.load((2, 0), str(tmp_path / "net.safetensors"))
    shapes = NETWORK.abstract_params((2, 0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )
    maps = jax.jit(lambda p, x: NETWORK.apply(p, x, (2, 0)))(params, images)
    expected = run_pytorch(torch, tensors, images, 3)
    assert_maps_close(maps, [expected[2], expected[0]])


@pytest.mark.parametrize("side", [1, 4, 16, 37, 50])
def test_positions_are_resized_as_jax_does(side):
    unit = np.eye(37, dtype=np.float32)
    expected = jax.image.resize(unit, (side, 37), "cubic", precision="highest")
    np.testing.assert_allclose(vision_transformer._resize_weights(side), expected, atol=5e-6)


def test_it_has_the_parameters_of_dinov2():
    """22,056,576 with the final norm and the mask token. A map needs neither."""
    shapes = jax.tree.leaves(NETWORK.abstract_params(range(12)))
    assert sum(np.prod(like.shape) for like in shapes) + 2 * 384 + 384 == 22_056_576


def test_sides_must_be_multiples_of_14():
    NETWORK.check_size(224, 238)
    with pytest.raises(
        UserError, match=r"not 225 x 20; set config.data.height=224, config.data.width=14 and"
    ):
        NETWORK.check_size(225, 20)
    with pytest.raises(ValueError, match="see check_size"):
        NETWORK.apply({}, np.zeros((1, 15, 14, 3), np.float32), (0,))
