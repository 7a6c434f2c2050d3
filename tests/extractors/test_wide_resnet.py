"""WideResNet-50-2 gives the maps of the same network in PyTorch, with random weights."""

import jax
import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.extractors import wide_resnet
from daad_jax.extractors.extractor import find_extractor
from tests.extractors.images import assert_maps_close, real_or_waves, waves

numpy_files = pytest.importorskip(
    "safetensors.numpy", reason="safetensors is not installed: pip install .[features]"
)
NETWORK = find_extractor("wide_resnet50")


def random_tensors(stages):
    """Tensors with the names and shapes of torchvision, with moderate batch statistics."""
    rng, tensors = np.random.default_rng(0), {}
    for layer in wide_resnet._layers(stages):
        *taps, channels, features = layer.kernel
        shape = (features, channels, *(taps or (1, 1)))
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        tensors[f"{layer.convolution}.weight"] = kernel.astype(np.float32)
        for name, low, high in (
            ("weight", 0.5, 1),
            ("bias", -0.2, 0.2),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.5, 2),
        ):
            tensors[f"{layer.norm}.{name}"] = rng.uniform(low, high, features).astype(np.float32)
    return tensors


def run_pytorch(torch, tensors, images, stages):
    """The network as torchvision runs it, written with its names: batch norm is not folded."""
    functional = torch.nn.functional
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def convolve(x, convolution, norm, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{convolution}.weight"], stride=stride, padding=padding)
        moments = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *moments)

    with torch.inference_mode():
        mean, deviation = (
            torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / deviation
        x = functional.max_pool2d(functional.relu(convolve(x, "conv1", "bn1", 2, 3)), 3, 2, 1)
        maps = []
        for stage in range(1, stages + 1):
            for block in range((3, 4, 6, 3)[stage - 1]):
                name, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
                y = functional.relu(convolve(x, f"{name}conv1", f"{name}bn1"))
                y = functional.relu(convolve(y, f"{name}conv2", f"{name}bn2", stride, 1))
                y = convolve(y, f"{name}conv3", f"{name}bn3")
                if block == 0:
                    x = convolve(x, f"{name}downsample.0", f"{name}downsample.1", stride)
                x = functional.relu(x + y)
            maps.append(x.permute(0, 2, 3, 1).numpy())
    return maps


def compare(tmp_path, stages, images):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")
    tensors = random_tensors(stages)
    numpy_files.save_file(tensors, tmp_path / "net.safetensors")
    layers = tuple(range(stages))
    params = NETWORK.load(layers, str(tmp_path / "net.safetensors"))
    shapes = NETWORK.abstract_params(layers)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )
    maps = jax.jit(lambda p, x: NETWORK.apply(p, x, layers))(params, images)
    assert_maps_close(maps, run_pytorch(torch, tensors, images, stages))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 50)])
def test_all_stages_of_a_narrow_network(tmp_path, monkeypatch, height, width):
    monkeypatch.setattr(wide_resnet, "INNER", (8, 16, 24, 32))
    monkeypatch.setattr(wide_resnet, "OUTER", (16, 32, 48, 64))
    compare(tmp_path, 4, waves(height, width, 2))


def test_two_stages_of_the_network_itself(tmp_path):
    compare(tmp_path, 2, real_or_waves(96))


def test_it_has_the_parameters_of_torchvision():
    """66,834,240 without the classifier. Batch norm has two for each channel, and our biases one."""
    shapes = jax.tree_util.tree_leaves_with_path(NETWORK.abstract_params(range(4)))
    total = sum(np.prod(like.shape) for _, like in shapes)
    biases = sum(np.prod(like.shape) for path, like in shapes if path[-1].key == "bias")
    assert total + biases == 66_834_240
    assert [(NETWORK.stride(i), NETWORK.channels(i)) for i in range(4)] == [
        (4, 256),
        (8, 512),
        (16, 1024),
        (32, 2048),
    ]


def test_a_missing_tensor_is_named(tmp_path):
    tensors = random_tensors(1)
    del tensors["layer1.1.bn3.running_var"]
    numpy_files.save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"the tensor 'layer1.1.bn3.running_var' is missing"):
        NETWORK.load((0,), str(tmp_path / "net.safetensors"))
