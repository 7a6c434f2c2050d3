"""The PyTorch twin has the same outputs, losses and gradients as our networks with the same parameters."""

import jax
import numpy as np
import pytest

from daad_jax.method import state
from daad_jax.method.step import make_train_step
from daad_jax.scoring.distances import make_distances
from tests.method.test_step import batches, small

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")

from benchmarks.torch_daad import Twin, to_torch  # noqa: E402  (it imports torch)

CONFIGS = {
    "DAAD+": {},
    "the paper's losses": {"distance": "l2", "generator": "minimax"},
    "DAAD": {"adversarial": 0.0, "alignment": 0.0},
}


def assert_close(actual, expected):
    """Equal within 1e-4 of the largest value of the array."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def make_pair(**loss):
    config = small(**loss)
    config.model.shrink = 0.1
    ours = state.create_state(config)
    twin = Twin(config)
    twin.load(ours.generator.variables, ours.discriminator.variables if ours.discriminator else None)
    return config, ours, twin


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients(name):
    config, ours, twin = make_pair(**CONFIGS[name])
    batch = batches(1)[0]
    after, metrics = jax.jit(make_train_step(config))(ours, batch)
    losses = twin.step(torch.from_numpy(batch))
    for key, value in losses.items():
        np.testing.assert_allclose(value, metrics[key], rtol=1e-4)
    for network, mine in ((twin.generator, after.generator), (twin.discriminator, after.discriminator)):
        if network is None:
            continue
        # Adam's first moment after one step is (1 - beta1) times the gradient.
        gradients = jax.tree.map(lambda m: m / (1 - config.train.beta1), mine.opt_state[0].mu)
        expected = to_torch({"params": gradients}, network)
        parameters = dict(network.named_parameters())
        assert expected.keys() == parameters.keys()
        for key, parameter in parameters.items():
            assert_close(parameter.grad, expected[key])


@pytest.mark.parametrize("name", ["DAAD+", "DAAD"])
def test_scores_and_reconstructions(name):
    config, ours, twin = make_pair(**CONFIGS[name])
    batch = batches(1)[0]
    variables = (ours.generator.variables, ours.discriminator.variables if ours.discriminator else None)
    measured = jax.jit(make_distances(config))(variables, batch)
    r, alignment, rebuilt = twin.score(torch.from_numpy(batch))
    assert_close(r, measured.reconstruction)
    assert_close(alignment, measured.alignment)
    assert np.abs(255 * rebuilt.permute(0, 2, 3, 1).numpy() - measured.reconstructed).max() < 0.51


def test_losses_stay_equal_during_training():
    config, ours, twin = make_pair()
    step = jax.jit(make_train_step(config))
    for batch in batches(3):
        ours, metrics = step(ours, batch)
        twin.zero_grad()
        losses = twin.step(torch.from_numpy(batch))
        np.testing.assert_allclose(losses["loss"], metrics["loss"], rtol=1e-3)
