"""Initial variables: distributed as the networks' own initialisers say, functions of seed and path."""

import jax
import numpy as np

from daad_jax.method import state
from daad_jax.models.initial import init_variables
from tests.method.test_step import small


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def of_both(config):
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
    theirs = leaves(
        {
            n: jax.jit(of.init, static_argnames="train")(keys[n], images, train=False)
            for n, of in networks.items()
        }
    )
    ours = leaves(of_both(config))
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        found = ours[path]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if not path.endswith(("['kernel']", "['items']")):
            np.testing.assert_array_equal(found, expected, path)
            continue
        allowed = 6 / found.size**0.5  # standard errors, of the mean and about those of the deviation
        assert abs(found.mean()) < allowed * expected.std(), path
        assert abs(found.std() / expected.std() - 1) < allowed, path
    kernel = ours["['generator']['params']['down2']['kernel']"]
    fan_in = kernel[..., 0].size
    largest = 2 / 0.87962566 / fan_in**0.5  # cut off at twice the deviation of what it is cut from
    assert 0.98 * largest < np.abs(kernel).max() <= largest * (1 + 1e-6)


def test_no_two_leaves_are_alike_and_what_is_named_alike_is_shared():
    config = small()
    drawn = {k: v for k, v in leaves(of_both(config)).items() if k.endswith(("['kernel']", "['items']"))}
    first = {path: x.flat[:8].tobytes() for path, x in drawn.items()}
    assert len(set(first.values())) == len(first)

    shapes = {"down1": {"kernel": jax.ShapeDtypeStruct((4, 4, 3, 5), np.float32)}}
    more = shapes | {"down2": {"kernel": jax.ShapeDtypeStruct((4, 4, 5, 5), np.float32)}}
    one, two = init_variables(shapes, 3), init_variables(more, 3)
    np.testing.assert_array_equal(one["down1"]["kernel"], two["down1"]["kernel"])
    assert (init_variables(shapes, 4)["down1"]["kernel"] != one["down1"]["kernel"]).all()
