"""Every layer equals Flax's own, in values and gradients, from the same key."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models.layers import (
    Conv,
    ConvTranspose,
    choose_implementation,
)

CASES = [
    (Conv, nn.Conv, (3, 3), (1, 1), (2, 7, 6, 3)),
    (Conv, nn.Conv, (3, 3), (1, 1), (1, 1, 2, 8)),
    (Conv, nn.Conv, (3, 3), (1, 1), (2, 5, 4, 1)),
    (Conv, nn.Conv, (1, 1), (1, 1), (2, 4, 4, 3)),
    (Conv, nn.Conv, (4, 4), (2, 2), (2, 8, 6, 3)),
    (Conv, nn.Conv, (4, 4), (2, 2), (2, 7, 6, 1)),
    (Conv, nn.Conv, (4, 4), (2, 2), (1, 2, 1, 8)),
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (2, 5, 4, 3)),
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (1, 1, 2, 1)),
    # A small map with many channels, whose gradients are matrix products.
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (2, 2, 3, 32)),
    # Tiny maps, whose results are matrix products, too.
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (1, 1, 2, 64)),
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (2, 3, 1, 200)),
    (ConvTranspose, nn.ConvTranspose, (2, 2), (2, 2), (2, 3, 3, 2)),
]


def assert_close(actual, expected):
    """Equal within 1e-5 of the largest value of each array."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-30),
        actual,
        expected,
    )


def value_and_gradients(module, params, x):
    """The output, and the gradients of all parameters and of the input."""

    def loss(params, x):
        y = module.apply(params, x)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    return y, gradients


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("ours", "flax", "kernel", "strides", "shape"), CASES)
def test_equals_flax(ours, flax, kernel, strides, shape, use_bias):
    x = jax.random.normal(jax.random.key(1), shape)
    mine = ours(5, kernel, strides, use_bias)
    theirs = flax(5, kernel, strides, padding="SAME", use_bias=use_bias)
    params = mine.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
    if use_bias:  # an initial bias of 0 would hide that it is not added
        params["params"]["bias"] = jnp.arange(5.0)
    assert_close(value_and_gradients(mine, params, x), value_and_gradients(theirs, params, x))


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_split_equals_native_under_vmap_and_pmap(layer):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 3))
    native = layer(5, (4, 4), (2, 2), implementation="native")
    fast = layer(5, (4, 4), (2, 2), implementation="split")
    params = jax.vmap(fast.init)(jax.random.split(jax.random.key(1)), x)

    def gradients(module):
        return jax.grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1))

    expected = jax.vmap(gradients(native))(params, x)
    assert_close(jax.vmap(gradients(fast))(params, x), expected)
    assert_close(jax.pmap(gradients(fast))(params, x), expected)


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_split_never_dilates_an_input(layer):
    """XLA:CPU is slow at dilated inputs, so this test guards the speed without a clock."""
    x = jnp.ones((2, 4, 4, 3))

    def program(implementation):
        module = layer(5, (4, 4), (2, 2), implementation=implementation)
        params = module.init(jax.random.key(0), x)
        gradients = jax.grad(lambda params, x: module.apply(params, x).sum(), (0, 1))
        return jax.jit(gradients).lower(params, x).as_text()

    assert "lhs_dilate = [2" in program("native")
    assert "lhs_dilate = [2" not in program("split")
    assert "stablehlo.convolution" in program("split")


@pytest.mark.parametrize(("pixels", "copied"), [(2, False), (3, True)])
def test_a_kernel_far_larger_than_its_map_is_not_copied(pixels, copied):
    """Scoring a single small image takes as long as reading the weights, so no copy may be added."""
    layer = ConvTranspose(5, (4, 4), (2, 2), implementation="split")
    x = jnp.ones((1, 1, pixels, 64))
    params = layer.init(jax.random.key(0), x)
    lines = jax.jit(layer.apply).lower(params, x).as_text().splitlines()
    assert any("slice" in line and "tensor<4x4x64x5xf32>" in line for line in lines) == copied


def test_choose_implementation():
    for channels in ((3, 1), (1, 3), (3, 512)):
        assert choose_implementation((4, 4), (2, 2), channels, "cpu") == "split"
        for kernel, strides in (((1, 1), (1, 1)), ((4, 4), (1, 1)), ((3, 3), (2, 2))):
            assert choose_implementation(kernel, strides, channels, "cpu") == "native"
        for backend in ("tpu", "gpu"):
            assert choose_implementation((4, 4), (2, 2), channels, backend) == "native"
            assert choose_implementation((3, 3), (1, 1), channels, backend) == "native"
    assert choose_implementation((3, 3), (1, 1), (64, 3), "cpu") == "split"
    assert choose_implementation((3, 3), (1, 1), (64, 16), "cpu") == "native"
    assert choose_implementation((3, 3), (1, 1), (3, 16), "cpu") == "split"
    assert choose_implementation((3, 3), (1, 1), (3, 64), "cpu") == "native"
    assert choose_implementation((4, 4), (2, 2), None, "cpu") == "split"
    assert choose_implementation((3, 3), (1, 1), None, "cpu") == "native"  # transposed


def test_split_is_refused_where_it_does_not_exist():
    with pytest.raises(ValueError, match="split"):
        Conv(16, (3, 3), (1, 1), implementation="split").init(jax.random.key(0), jnp.ones((1, 4, 4, 64)))
