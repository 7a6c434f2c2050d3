"""The initial variables have the distributions of Flax's initializers and depend on seed and path only."""

import jax
import numpy as np

from daad_jax.method import state
from daad_jax.models.initializers import init_variables
from tests.method.test_step import small


def leaves_by_path(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def create_variables(config):
    created = state.create_state(config)
    return {"generator": created.generator.variables, "discriminator": created.discriminator.variables}


def test_values_are_distributed_as_flax_would():
    config = small()
    config.model.base_width = config.model.discriminator_width = 16
    images = np.zeros((1, config.data.height, config.data.width, config.data.channels), np.float32)
    networks = {
        "generator": state.build_generator(config),
        "discriminator": state.build_discriminator(config),
    }
    keys = dict(zip(networks, jax.random.split(jax.random.key(0))))
    theirs = leaves_by_path(
        {
            name: jax.jit(network.init, static_argnames="train")(keys[name], images, train=False)
            for name, network in networks.items()
        }
    )
    ours = leaves_by_path(create_variables(config))
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        drawn = ours[path]
        assert (drawn.shape, drawn.dtype) == (expected.shape, expected.dtype)
        if not path.endswith(("['kernel']", "['items']")):
            np.testing.assert_array_equal(drawn, expected, path)
            continue
        tolerance = 6 / drawn.size**0.5  # six standard errors of the mean, and nearly so of the deviation
        assert abs(drawn.mean()) < tolerance * expected.std(), path
        assert abs(drawn.std() / expected.std() - 1) < tolerance, path
    kernel = ours["['generator']['params']['down2']['kernel']"]
    fan_in = kernel[..., 0].size
    largest = 2 / 0.87962566 / fan_in**0.5  # the normal distribution is cut off at two standard deviations
    assert 0.98 * largest < np.abs(kernel).max() <= largest * (1 + 1e-6)


def test_arrays_of_a_network_differ_and_networks_share_equal_paths():
    config = small()
    drawn = {
        k: v
        for k, v in leaves_by_path(create_variables(config)).items()
        if k.endswith(("['kernel']", "['items']"))
    }
    beginnings = {path: x.flat[:8].tobytes() for path, x in drawn.items()}
    assert len(set(beginnings.values())) == len(beginnings)

    shapes = {"down1": {"kernel": jax.ShapeDtypeStruct((4, 4, 3, 5), np.float32)}}
    more_shapes = shapes | {"down2": {"kernel": jax.ShapeDtypeStruct((4, 4, 5, 5), np.float32)}}
    small_network, large_network = init_variables(shapes, 3), init_variables(more_shapes, 3)
    np.testing.assert_array_equal(small_network["down1"]["kernel"], large_network["down1"]["kernel"])
    assert (init_variables(shapes, 4)["down1"]["kernel"] != small_network["down1"]["kernel"]).all()
