"""Batches made on the device are those made by the host, to the bit."""

import functools
import itertools

import jax
import numpy as np
import pytest

from daad_jax.config import DataConfig
from daad_jax.data.batches import BatchPlan, batch_plans, group_batches, train_batches
from daad_jax.data.samples import Split
from daad_jax.training.feed import gather_batch

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), np.uint8)
SPLIT = Split(IMAGES, np.zeros(7, np.int8), ["good"] * 7, list("abcdefg"))


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(),
        DataConfig(flip_vertical=True),
        DataConfig(flip_horizontal=True, shift=1),
        DataConfig(flip_horizontal=True, flip_vertical=True, shift=9),  # farther than the image is wide
    ],
)
def test_the_same_batches_to_the_bit(config):
    on_device = jax.jit(functools.partial(gather_batch, config=config))
    made = [on_device(IMAGES, order) for order in itertools.islice(batch_plans(7, config, 5, 4, 3), 20)]
    expected = list(itertools.islice(train_batches(SPLIT, config, 5, 4, 3), 20))
    np.testing.assert_array_equal(made, expected)
    assert made[0].dtype == np.uint8


def test_several_at_once():
    config = DataConfig(flip_horizontal=True, shift=1)
    order = next(group_batches(batch_plans(7, config, 5, 4), 3))
    assert isinstance(order, BatchPlan)
    expected = next(group_batches(train_batches(SPLIT, config, 5, 4), 3))
    np.testing.assert_array_equal(gather_batch(IMAGES, order, config), expected)
