"""Both networks have the right shapes at any depth and size, and no raw feature reaches the decoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.config import ModelConfig
from daad_jax.models.discriminator import Discriminator
from daad_jax.models.generator import Generator

RNG = np.random.default_rng(0)


def model_config(levels, items, skips=True, width=4):
    return ModelConfig(
        levels=levels,
        base_width=width,
        max_width=4 * width,
        skips=(skips,) * (levels - 1),
        memory_items=(items,) * levels,
        division=((1, 1, 1),) * levels,
        discriminator_width=width,
    )


def images(height, width, channels, count=2):
    return jnp.asarray(RNG.random((count, height, width, channels)), jnp.float32)


def reconstruct(config, x):
    generator = Generator(config, x.shape[-1])
    variables = generator.init(jax.random.key(0), x, train=False)
    return jax.jit(lambda v, x: generator.apply(v, x, train=False))(variables, x), variables


@pytest.mark.parametrize(
    ("levels", "height", "width", "channels"),
    [
        (1, 2, 6, 1),
        pytest.param(2, 8, 4, 3, marks=pytest.mark.slow),
        pytest.param(4, 32, 48, 3, marks=pytest.mark.slow),
        pytest.param(5, 32, 64, 1, marks=pytest.mark.slow),
    ],
)
def test_any_depth_size_and_number_of_channels(levels, height, width, channels):
    x = images(height, width, channels)
    (y, usage), _ = reconstruct(model_config(levels, 3), x)
    assert y.shape == x.shape
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    assert sorted(usage) == [f"memory{scale}" for scale in range(1, levels + 1)]


def test_no_feature_bypasses_a_memory():
    """With one item in every memory, all images get the same reconstruction."""
    (y, _), _ = reconstruct(model_config(3, 1), images(16, 16, 3, count=3))
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:1], y.shape), atol=1e-6)
    # Without memories, the same network distinguishes images.
    (y, _), _ = reconstruct(model_config(3, 0), images(16, 16, 3, count=3))
    assert float(jnp.abs(y - y[:1]).max()) > 1e-2


@pytest.mark.slow
def test_skips_add_their_memories_and_nothing_else():
    _, with_skips = reconstruct(model_config(3, 2), images(16, 16, 3))
    _, without = reconstruct(model_config(3, 2, skips=False), images(16, 16, 3))
    assert {"memory2", "memory3"} == set(with_skips["params"]) - set(without["params"])
    channels = [v["params"]["up0"]["kernel"].shape[2] for v in (with_skips, without)]
    assert channels == [16, 8]  # with skips: the level below and the read beside it


@pytest.mark.parametrize("changed", [{"temperature": 0.05}, {"shrink": 0.3}])
def test_the_memories_get_their_temperature_and_shrinkage(changed):
    x, plain = images(16, 16, 3), model_config(3, 4)
    (y, _), variables = reconstruct(plain, x)
    other, _ = Generator(dataclasses.replace(plain, **changed), 3).apply(variables, x, train=False)
    assert float(jnp.abs(y - other).max()) > 1e-3


def test_all_blocks_of_a_map_share_one_bank():
    config = model_config(2, 5)
    config.division = ((2, 2, 4), (4, 4, 1))
    _, variables = reconstruct(config, images(16, 16, 3))
    # Bottleneck 4 x 4 x 16 in 2 x 2 x 4 blocks, skip 8 x 8 x 8 in 4 x 4 x 1 blocks.
    assert variables["params"]["memory1"]["items"].shape == (5, 2 * 2 * 4)
    assert variables["params"]["memory2"]["items"].shape == (5, 2 * 2 * 8)


@pytest.mark.parametrize(("height", "width", "layers"), [(32, 32, 3), (64, 32, 3), (128, 128, 5), (4, 4, 1)])
def test_the_extractor_halves_the_map_down_to_four_pixels(height, width, layers):
    x = images(height, width, 3)
    discriminator = Discriminator(model_config(1, 1))
    variables = discriminator.init(jax.random.key(0), x, train=False)
    logits, maps = discriminator.apply(variables, x, train=False)
    assert logits.shape == (2,)
    assert [m.shape[1:3] for m in maps] == [(height >> i, width >> i) for i in range(1, layers + 1)]
    assert [m.shape[3] for m in maps] == [min(4 * 2**i, 16) for i in range(layers)]


@pytest.mark.slow
def test_with_running_statistics_an_image_does_not_depend_on_its_batch():
    x = images(16, 16, 3, count=4)
    (batch, _), _ = reconstruct(model_config(2, 3), x)
    (single, _), _ = reconstruct(model_config(2, 3), x[:1])
    np.testing.assert_allclose(batch[:1], single, atol=1e-6)
