"""The transposed convolution of the TPU has the gradients of XLA's own."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models.layers import ConvTranspose
from daad_jax.models.transposed_convolution import native_conv_transpose, native_up


@pytest.mark.parametrize("rows", [2, 24], ids=["more weights than values", "more values than weights"])
@pytest.mark.parametrize("width", [5, 128])
def test_the_transposed_convolution_of_the_tpu_has_the_gradients_of_the_plain_one(rows, width):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, rows, rows, 6)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((4, 4, 6, width)), jnp.float32)
    expected, pull = jax.vjp(lambda x, kernel: native_conv_transpose(x, kernel, (2, 2)), x, kernel)
    result, pull_native_up = jax.vjp(jax.jit(native_up), x, kernel)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    gradient = jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    for actual, right in zip(pull_native_up(gradient), pull(gradient)):
        np.testing.assert_allclose(actual, right, rtol=0, atol=1e-5 * np.abs(right).max())


def test_only_the_gradient_of_a_kernel_that_fills_the_lanes_keeps_its_order():
    def text(width: int) -> str:
        x, kernel = jnp.zeros((2, 4, 4, 6)), jnp.zeros((4, 4, 6, width))
        return jax.jit(jax.grad(lambda x, k: jnp.sum(native_up(x, k) ** 2), 1)).lower(x, kernel).as_text()

    assert "LayoutConstraint" in text(128)
    assert "LayoutConstraint" not in text(64)


@pytest.mark.parametrize(("backend", "constrained"), [("cpu", False), ("gpu", False), ("tpu", True)])
def test_only_a_tpu_gets_this_form(backend, constrained):
    layer, x = ConvTranspose(128, use_bias=False), jnp.zeros((2, 4, 4, 6))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(layer.apply(params, x) ** 2)))
    with mock.patch.object(jax, "default_backend", return_value=backend):
        assert ("LayoutConstraint" in gradient.lower(params).as_text()) == constrained
