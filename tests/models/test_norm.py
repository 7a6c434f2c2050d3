"""Batch normalisation against Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models.norm import MOMENTUM, BatchNorm, inverse_root

RNG = np.random.default_rng(0)
X = (2 + 3 * RNG.standard_normal((8, 5, 4, 6))).astype(np.float32)
DOWN = RNG.standard_normal(X.shape).astype(np.float32)
VARIABLES = {
    "params": {key: RNG.standard_normal(6).astype(np.float32) for key in ("scale", "bias")},
    "batch_stats": {key: RNG.random(6).astype(np.float32) for key in ("mean", "var")},
}


def flaxes(axis_name, train):
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, axis_name=axis_name)


def passed(module, params, x, down, axis_name=None):
    """What a pass gives: the result, the next statistics, and gradients by the parameters and by x."""

    def apply(params, x):
        variables = {"params": params, "batch_stats": VARIABLES["batch_stats"]}
        return module.apply(variables, x, mutable=["batch_stats"])

    y, pull, after = jax.vjp(apply, params, x, has_aux=True)
    of_params, of_x = pull(down)
    return y, after, jax.lax.psum(of_params, axis_name) if axis_name else of_params, of_x


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, expected)


@pytest.mark.parametrize("train", [True, False])
def test_as_flaxes(train):
    got, expected = (
        passed(module, VARIABLES["params"], X, DOWN)
        for module in (BatchNorm(None, train), flaxes(None, train))
    )
    assert_close(got, expected)


def test_over_devices_as_flaxes():
    def over(module):
        run = jax.pmap(
            lambda x, down: passed(module, VARIABLES["params"], x, down, "devices"), axis_name="devices",
            devices=jax.devices()[:4],
        )  # fmt: skip
        return run(X.reshape(4, 2, *X.shape[1:]), DOWN.reshape(4, 2, *X.shape[1:]))

    got = over(BatchNorm("devices", True))
    assert_close(got, over(flaxes("devices", True)))
    whole = passed(BatchNorm(None, True), VARIABLES["params"], X, DOWN)
    assert_close(got[0].reshape(X.shape), whole[0])


def test_starts_as_flaxes():
    key = jax.random.key(0)
    got, expected = (m.init(key, jnp.asarray(X)) for m in (BatchNorm(None, True), flaxes(None, True)))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_root_s_derivative_is_jax_s():
    x = RNG.random(9).astype(np.float32) + 0.1
    for order in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(order(inverse_root)(x), order(jax.lax.rsqrt)(x), rtol=1e-6)
