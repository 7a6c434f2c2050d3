"""The state before the first step: its shapes are known beforehand, and its moments are the optimiser's."""

import jax
import numpy as np

from daad_jax import state
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
