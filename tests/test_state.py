"""The state before the first step: its shapes are known beforehand, and its moments are the optimiser's."""

import jax
import numpy as np

from daad_jax import state
from daad_jax.parallel import Mapped
from tests.test_step import small


def test_shapes_are_those_of_what_is_created():
    for loss in ({}, {"adversarial": 0.0, "alignment": 0.0}):
        config = small(**loss)
        created = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.create(config))
        assert created == state.shapes(config)


def test_moments_begin_as_the_optimiser_says():
    config = small()
    config.train.schedule = "cosine"
    optimizer = state.build_optimizer(config.train)
    created = state.create(config)
    for network in (created.generator, created.discriminator):
        expected = optimizer.init(network.params)
        assert jax.tree.structure(network.opt_state) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, network.opt_state, expected)


def test_a_discriminator_of_one_layer_has_no_batch_statistics():
    config = small()
    config.data.height = config.data.width = 8
    config.model.levels, config.model.skips = 1, ()
    config.model.memory_items, config.model.division = (5,), ((1, 1, 1),)
    discriminator = state.create(config).discriminator
    assert discriminator.params.keys() == {"down0", "classifier"}
    assert discriminator.batch_stats == {}


def test_a_device_owns_what_it_is_given():
    """A processor would read a numpy array where it lies, if it lies well."""
    raw = np.ones(1024 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    aligned = raw[start : start + 1024].view(np.float32)
    copy = Mapped(jax.devices()[:1]).replicate(aligned)
    aligned[:] = 0
    np.testing.assert_array_equal(copy, np.full(256, np.frombuffer(b"\1\1\1\1", np.float32)[0]))
