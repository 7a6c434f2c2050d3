"""Reading a whole map gives the values, the weights and the gradients of reading its blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models import map_memory, memory, packing


@pytest.mark.parametrize(
    ("shape", "division", "packed"),
    [((3, 8, 12, 5), (4, 3, 1), 1), ((2, 4, 4, 3), (1, 1, 1), 1), ((2, 8, 8, 3), (2, 4, 1), 2)],
)
def test_a_whole_map_is_read_like_its_blocks(shape, division, packed):
    rng = np.random.default_rng(0)
    length = int(np.prod(shape[1:]) // np.prod(division))
    features, gradient = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))
    items = jnp.asarray(rng.standard_normal((7, length)), jnp.float32)

    def by_blocks(features, items):
        read, weights = memory.read(memory.divide(features, division), items, 0.2, 0.01)
        return memory.assemble(read, division, shape[1:]), weights

    def whole(features, items):
        maps = packing.pack(features, packed)
        assert map_memory.can_read_map(maps.shape, division)
        read, weights = map_memory.read_map(maps, items, division, packed, 0.2, 0.01)
        return packing.unpack(read, packed), weights

    results = []
    for function in (by_blocks, whole):
        read, pull, weights = jax.vjp(function, features, items, has_aux=True)
        results.append((read, weights, *pull(gradient)))
    for expected, result in zip(*results):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_blocks_of_channels_and_parts_of_packed_pixels_are_left_to_the_other_form():
    assert not map_memory.can_read_map((2, 8, 8, 4), (2, 2, 2))
    assert not map_memory.can_read_map((2, 4, 4, 16), (8, 8, 1))
