"""Every fast form equals Flax's own layer, in values and gradients, from the same key."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models.layers import Conv, ConvTranspose, choose_form

CASES = [
    (Conv, nn.Conv, (3, 3), (1, 1), (2, 7, 6, 3)),
    (Conv, nn.Conv, (4, 4), (2, 2), (2, 8, 6, 3)),
    (Conv, nn.Conv, (4, 4), (2, 2), (2, 7, 5, 1)),
    (Conv, nn.Conv, (1, 1), (1, 1), (2, 4, 4, 3)),
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (2, 5, 3, 4)),
    (ConvTranspose, nn.ConvTranspose, (4, 4), (2, 2), (2, 1, 1, 2)),
    (ConvTranspose, nn.ConvTranspose, (2, 2), (2, 2), (2, 3, 3, 2)),
]


@pytest.mark.parametrize(("ours", "flax", "kernel", "strides", "shape"), CASES)
def test_equals_flax(ours, flax, kernel, strides, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    mine = ours(5, kernel, strides)
    theirs = flax(5, kernel, strides, padding="SAME")
    params = mine.init(jax.random.key(0), x)
    reference = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, reference)

    def loss(module):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1)))

    with jax.numpy_rank_promotion("allow"):  # Flax adds its bias by promotion
        expected = loss(theirs)(params, x)
        out = theirs.apply(params, x)
    np.testing.assert_allclose(mine.apply(params, x), out, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5 * np.abs(b).max()),
        loss(mine)(params, x),
        expected,
    )


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_accelerators_keep_the_native_operation(backend):
    assert choose_form((3, 3), (1, 1), (32, 32), backend) == "native"
    assert choose_form((4, 4), (2, 2), (32, 32), backend) == "native"


def test_cpu_uses_products():
    assert choose_form((3, 3), (1, 1), (32, 32), "cpu") == "matmul"
    assert choose_form((4, 4), (2, 2), (32, 32), "cpu") == "matmul"
    assert choose_form((4, 4), (2, 2), (31, 32), "cpu") == "native"
