"""The form of a training step for the TPU computes what the form for other devices computes."""

from unittest import mock

import jax
import numpy as np
import pytest

from daad_jax.method.state import create_state
from daad_jax.method.step import make_train_step
from tests.tiny import tiny_config


def step_for(backend: str, precision: str):
    """The lowered text, the state and the metrics after one step."""
    config = tiny_config(train__precision=precision, model__temperature=0.2)
    state = create_state(config)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    with mock.patch.object(jax, "default_backend", return_value=backend):
        lowered = jax.jit(make_train_step(config)).lower(state, images)
    return lowered.as_text(), *lowered.compile()(state, images)


@pytest.mark.slow
def test_a_step_in_the_form_of_the_tpu_gives_the_same_losses_statistics_and_gradients():
    (_, expected, expected_metrics), (text, state, metrics) = (
        step_for(backend, "float32") for backend in ("cpu", "tpu")
    )
    assert "tensor<4x4x4x64xf32>" in text  # 16 x 16 pixels of four channels, packed 4 x 4
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for network in ("generator", "discriminator"):
        before, after = getattr(expected, network), getattr(state, network)
        for a, b in zip(jax.tree.leaves(before.batch_stats), jax.tree.leaves(after.batch_stats)):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
        # Adam's first moment is the gradient, times a constant.
        moments = (jax.tree.leaves(x.opt_state[0].mu) for x in (before, after))
        for a, b in zip(*moments):
            assert np.linalg.norm(b - a) <= 1e-3 * np.linalg.norm(a) + 1e-7


@pytest.mark.slow
def test_maps_stay_in_bfloat16_on_a_tpu():
    text, state, metrics = step_for("tpu", "bfloat16")
    assert "tensor<4x4x4x64xbf16>" in text
    assert not any("xbf16>" in line for line in text.splitlines() if "stablehlo.exponential" in line)
    assert all(leaf.dtype != "bfloat16" for leaf in jax.tree.leaves(state))
    _, _, exact = step_for("cpu", "float32")
    np.testing.assert_allclose(metrics["reconstruction"], exact["reconstruction"], rtol=0.02)


@pytest.mark.slow
def test_bfloat16_rounds_no_more_in_the_form_of_the_tpu():
    (_, exact, _), (_, usual, _), (_, packed, _) = (
        step_for(*kind) for kind in (("cpu", "float32"), ("cpu", "bfloat16"), ("tpu", "bfloat16"))
    )
    for network in ("generator", "discriminator"):
        gradients = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(getattr(x, network).opt_state[0].mu)])
            for x in (exact, usual, packed)
        )
        right, of_usual, of_packed = gradients
        error = np.linalg.norm(of_packed - right)
        assert error <= 1.5 * np.linalg.norm(of_usual - right)
        assert error <= 0.1 * np.linalg.norm(right)
