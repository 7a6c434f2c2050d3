"""The state before the first step: its shapes are known beforehand, and its moments are the optimiser's."""

import jax
import numpy as np

from daad_jax.config import TrainConfig
from daad_jax.method import state
from daad_jax.runtime.devices import DeviceGroup
from tests.method.test_step import small


def test_shapes_are_those_of_what_is_created():
    for loss in ({}, {"adversarial": 0.0, "alignment": 0.0}):
        config = small(**loss)
        created = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.create_state(config))
        assert created == state.abstract_state(config)


def test_moments_begin_as_the_optimiser_says():
    config = small()
    config.train.schedule = "cosine"
    optimizer = state.build_optimizer(config.train)
    created = state.create_state(config)
    for network in (created.generator, created.discriminator):
        expected = optimizer.init(network.params)
        assert jax.tree.structure(network.opt_state) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, network.opt_state, expected)


def test_a_discriminator_of_one_layer_has_no_batch_statistics():
    config = small()
    config.data.height = config.data.width = 8
    config.model.levels, config.model.skips = 1, ()
    config.model.memory_items, config.model.division = (5,), ((1, 1, 1),)
    discriminator = state.create_state(config).discriminator
    assert discriminator.params.keys() == {"down0", "classifier"}
    assert discriminator.batch_stats == {}


def test_a_device_owns_what_it_is_given():
    """A processor would read a numpy array where it lies, if it lies well."""
    raw = np.ones(1024 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    aligned = raw[start : start + 1024].view(np.float32)
    copy = DeviceGroup(jax.devices()[:1]).replicate(aligned)
    aligned[:] = 0
    np.testing.assert_array_equal(copy, np.full(256, np.frombuffer(b"\1\1\1\1", np.float32)[0]))


def test_the_learning_rate_by_hand():
    rate = state.learning_rate(TrainConfig(steps=12, warmup_steps=4, schedule="cosine", learning_rate=2.0))
    np.testing.assert_allclose([rate(step) for step in (0, 2, 4, 8, 12)], [0, 1, 2, 1, 0], atol=1e-6)
    rate = state.learning_rate(TrainConfig(steps=12, warmup_steps=2, learning_rate=2.0))
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 11)], [0, 1, 2, 2])


def test_the_optimiser_is_adam_as_configured():
    config = TrainConfig(steps=9, learning_rate=0.1, beta1=0.3, beta2=0.7)
    optimizer, x = state.build_optimizer(config), np.array([1.0, -2.0], np.float32)
    moments, first, second = optimizer.init(x), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(np.array([[1.0, 3.0], [-2.0, 0.5], [0.1, 0.1]]), 1):
        update, moments = optimizer.update(gradient.astype(np.float32), moments, x)
        first, second = 0.3 * first + 0.7 * gradient, 0.7 * second + 0.3 * gradient**2
        expected = -0.1 * first / (1 - 0.3**step) / (np.sqrt(second / (1 - 0.7**step)) + 1e-8)
        np.testing.assert_allclose(update, expected, rtol=1e-4)


def test_another_seed_is_another_network():
    one, other = small(), small()
    other.seed = 1
    before, after = (state.create_state(config).generator.params["stem"]["kernel"] for config in (one, other))
    assert not np.array_equal(before, after)
