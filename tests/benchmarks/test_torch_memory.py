"""The PyTorch twin of the memories over features gives our R and our map."""

import jax
import numpy as np
import pytest

from benchmarks.feature_scoring import VARIANTS, make_feature_config
from daad_jax.recipes import load_recipe
from daad_jax.scoring.distances import make_distances
from daad_jax.scoring.scorer import variables_of
from tests.tiny import filled_state, tiny_feature_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")

from benchmarks.torch_memory import TorchMemories  # noqa: E402  (it imports torch)


@pytest.mark.parametrize(("scaling", "spread"), [("standardised", True), ("whitened", False)])
def test_distances(scaling, spread):
    """Blocks of several places, of one place, of less than one, and the whole image."""
    config = tiny_feature_config(
        model__blocks=(16, 4, 2, 0), model__feature_layers=((1, 4),) * 4, model__memory_items=(40, 60, 9, 8),
        model__feature_scaling=scaling, model__place_weight=1.0, score__weights=(1.0, 2.0, 0.0, 1.0),
        score__heat_weights=(1.0, 2.0, 1.0, 0.0), model__spread=spread,
    )  # fmt: skip
    state, images = filled_state(config), np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    r, heat = TorchMemories(config, state.features, channels_last=False)(torch.from_numpy(images))
    ours = jax.jit(make_distances(config))(variables_of(state), images)
    np.testing.assert_allclose(r.numpy(), ours.reconstruction, rtol=1e-4)
    np.testing.assert_allclose(heat.numpy(), ours.reconstruction_map, rtol=1e-4)


def test_the_benchmark_times_the_methods_of_a_folder():
    """Data sets with classes have another method: one memory of whole images."""
    for variant in VARIANTS:
        recipe = load_recipe(f"folder:images,{variant}").model
        timed = make_feature_config(variant, 224).model
        assert (timed.blocks, timed.memory_items, timed.feature_layers, timed.spread) == (
            recipe.blocks, recipe.memory_items, recipe.feature_layers, recipe.spread
        )  # fmt: skip
