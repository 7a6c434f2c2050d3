"""The PyTorch twin of the features computes what our network computes with the same parameters."""

import jax
import numpy as np
import pytest

from daad_jax.extractors.extractor import find_extractor
from tests.extractors.images import assert_maps_close, waves
from tests.extractors.test_extractor import random_params

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")

from benchmarks.torch_features import TorchFeatures  # noqa: E402  (it imports torch)


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps(channels_last):
    extractor, layers = find_extractor("efficientnet_lite0"), tuple(range(7))
    params, images = random_params(extractor, layers), waves(65, 50, 2)
    twin = TorchFeatures(extractor.network, params, channels_last)
    found = twin(twin.arrange(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))))
    expected = jax.jit(lambda x: extractor.apply(params, x, layers))(images)
    assert_maps_close([y.permute(0, 2, 3, 1).numpy() for y in found], expected)
