"""The step: losses against numpy, many devices against one, and limit cases."""

import functools
import re

import jax
import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.method import losses, restoration, state
from daad_jax.method.restoration import to_unit
from daad_jax.method.step import make_train_step, scan_steps
from daad_jax.runtime.devices import DeviceGroup
from tests.tiny import tiny_config


def small(**loss) -> Config:
    changes = {f"loss__{key}": value for key, value in loss.items()}
    return tiny_config(model__memory_items=(5, 6), **changes)


def batches(count):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 16, 3), np.uint8)


def run(config, devices):
    mapped = DeviceGroup(jax.devices()[:devices])
    shapes = state.abstract_state(config)
    example = mapped.put(batches(1)[0])
    step = mapped.compile_ahead(make_train_step(config, mapped.axis_name), shapes, example)
    train_state = mapped.replicate(state.init_state(shapes, config.seed))
    for batch in batches(3):
        train_state, metrics = step(train_state, mapped.put(batch))
    return mapped.fetch(train_state), mapped.fetch(metrics)


def test_losses_are_the_papers():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)
    real, fake = rng.normal(size=(2, 7)).astype(np.float32)
    expected = np.mean([np.linalg.norm((x - y).ravel()) for x, y in zip(a, b)])
    np.testing.assert_allclose(losses.distance(a, b, "l2"), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.distance(a, b, "squared"), np.mean((a - b) ** 2), rtol=1e-5)
    d_real, d_fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    value = np.mean(np.log(d_real)) + np.mean(np.log(1 - d_fake))
    np.testing.assert_allclose(losses.discriminator_loss(real, fake), -value, rtol=1e-5)
    minimax = losses.adversarial_loss(fake, "minimax")
    np.testing.assert_allclose(minimax, np.mean(np.log(1 - d_fake)), rtol=1e-5)
    saturating = losses.adversarial_loss(fake, "non_saturating")
    np.testing.assert_allclose(saturating, -np.mean(np.log(d_fake)), rtol=1e-5)


@pytest.mark.slow
def test_metrics_have_the_gradients_lengths():
    """Adam's first moment after one step is the gradient times 1 - beta1."""
    config = small()
    after, metrics = jax.jit(make_train_step(config))(state.create_state(config), batches(1)[0])
    for name, network in (("", after.generator), ("discriminator_", after.discriminator)):
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(network.opt_state[0].mu)]
        length = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves)) / (1 - config.train.beta1)
        np.testing.assert_allclose(metrics[f"{name}grad_norm"], length, rtol=1e-5)


@pytest.mark.parametrize(
    ("devices", "restore"), [(2, ""), pytest.param(8, "grey_turns", marks=pytest.mark.slow)]
)
def test_many_devices_give_what_one_gives(devices, restore):
    config = small()
    config.train.restore = restore
    one, one_metrics = run(config, 1)
    many, many_metrics = run(config, devices)

    def close(tolerance):
        return lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    for network in ("generator", "discriminator"):
        a, b = getattr(one, network), getattr(many, network)
        jax.tree.map(close(1e-5), a.params, b.params)
        jax.tree.map(close(1e-5), a.batch_stats, b.batch_stats)
    for key in ("loss", "reconstruction", "alignment"):
        np.testing.assert_allclose(one_metrics[key], many_metrics[key], rtol=1e-4)


def test_gradients_reach_every_parameter():
    config = small()
    before = state.create_state(config)
    after, metrics = jax.jit(make_train_step(config))(before, batches(1)[0])
    for old, new in zip(
        jax.tree.leaves((before.generator.params, before.discriminator.params)),
        jax.tree.leaves((after.generator.params, after.discriminator.params)),
    ):
        assert not np.array_equal(old, new)
    weighted = 50 * metrics["reconstruction"] + metrics["adversarial"] + metrics["alignment"]
    np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-5)


def moment(network, config):
    """The gradient of the first step: Adam's first moment is 1 - beta1 times it."""
    return jax.tree.map(lambda leaf: leaf / (1 - config.train.beta1), network.opt_state[0].mu)


@pytest.mark.parametrize(
    ("distance", "kind"),
    [("squared", "non_saturating"), pytest.param("l2", "minimax", marks=pytest.mark.slow)],
)
def test_gradients_are_those_of_the_losses_written_down(distance, kind):
    """The step pulls back by hand, once for all; here each loss is a function of one network's parameters."""
    config = small(reconstruction=3.0, adversarial=5.0, alignment=7.0, distance=distance, generator=kind)
    before, batch = state.create_state(config), batches(1)[0]
    after, _ = jax.jit(make_train_step(config))(before, batch)
    images = to_unit(batch)

    def reconstructed(params):
        variables = before.generator.variables | {"params": params}
        (fake, _), _ = state.build_generator(config).apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return fake

    def judged(params, x):
        variables = before.discriminator.variables | {"params": params}
        (logits, maps), _ = state.build_discriminator(config).apply(
            variables, x, train=True, mutable=["batch_stats"]
        )
        return logits, maps[-1]

    def generators(params):
        fake = reconstructed(params)
        logits, features = judged(before.discriminator.params, fake)
        _, real_features = judged(before.discriminator.params, images)
        return (
            3 * losses.distance(fake, images, distance)
            + 5 * losses.adversarial_loss(logits, kind)
            + 7 * losses.distance(features, real_features, distance)
        )

    def discriminators(params):
        fake = reconstructed(before.generator.params)
        return losses.discriminator_loss(judged(params, images)[0], judged(params, fake)[0])

    for loss, old, new in (
        (generators, before.generator, after.generator),
        (discriminators, before.discriminator, after.discriminator),
    ):
        expected = jax.jit(jax.grad(loss))(old.params)
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5 * largest)
        jax.tree.map(close, moment(new, config), expected)


@pytest.mark.slow
def test_what_was_lost_is_what_must_come_back():
    config = small()
    config.train.restore = "grey_turns"
    before, batch = state.create_state(config), batches(1)[0] // 8
    batch[..., 0] += 14 * np.arange(16, dtype=np.uint8)  # a colour, and a direction
    batch[:, :4, :, 1] += 200
    _, metrics = jax.jit(make_train_step(config))(before, batch)
    images = to_unit(batch)
    inputs = restoration.for_training(images, "grey_turns", np.arange(len(batch)))

    def rebuilt(x):
        (fake, _), _ = state.build_generator(config).apply(
            before.generator.variables, x, train=True, mutable=["batch_stats"]
        )
        return fake

    pairs = ((inputs, images), (inputs, inputs), (images, images))
    right, *wrong = (float(losses.distance(rebuilt(x), y, "squared")) for x, y in pairs)
    np.testing.assert_allclose(metrics["reconstruction"], right, rtol=2e-5)
    assert all(abs(error - right) > 2e-4 * right for error in wrong)


def test_daad_without_plus_has_no_discriminator():
    config = small(adversarial=0.0, alignment=0.0)
    before = state.create_state(config)
    assert before.discriminator is None
    after, metrics = jax.jit(make_train_step(config))(before, batches(1)[0])
    assert after.discriminator is None
    assert "discriminator" not in metrics


def test_training_descends():
    config = small(adversarial=0.0, alignment=0.0)
    config.train.learning_rate = 3e-3
    step = jax.jit(make_train_step(config))
    batch = batches(1)[0] // 8 + 100
    current, first = step(state.create_state(config), batch)
    for _ in range(60):
        current, last = step(current, batch)
    assert last["reconstruction"] < 0.5 * first["reconstruction"]


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_several_steps_of_one_call_are_the_same_steps(devices):
    config = small()
    one, one_metrics = run(config, devices)
    mapped = DeviceGroup(jax.devices()[:devices])
    call = mapped.compile_step(scan_steps(make_train_step(config, mapped.axis_name)))
    after, metrics = call(mapped.replicate(state.create_state(config)), mapped.put(batches(3), batch_axis=1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, mapped.fetch(after)
    )
    for key, values in mapped.fetch(metrics).items():
        assert values.shape == (3,)
        np.testing.assert_allclose(values[-1], one_metrics[key], rtol=1e-3, atol=1e-5)


def test_nothing_is_copied_to_be_updated_in_place():
    """Where XLA:CPU cannot order an update after all that reads the old value, it copies the old value."""
    config = small()
    shapes = state.abstract_state(config)
    step = DeviceGroup(jax.devices()[:1]).compile_step(make_train_step(config))
    text = step.lower(shapes, batches(1)[0]).compile().as_text()
    assert text is not None
    entry = text[text.index("\nENTRY") :]
    given = set(re.findall(r"(%[\w.\-]+) = \S+ parameter\(", entry))
    assert any("items" in name for name in given)
    assert any("kernel" in name for name in given)
    copied = [name for name in re.findall(r" copy\((%[\w.\-]+)\)", entry) if name in given]
    # Biases and scales, which the metrics read too, are nothing.
    assert [name for name in copied if "kernel" in name or "items" in name] == []


@pytest.mark.slow
def test_bfloat16_is_of_the_convolutions_alone():
    config = small()
    exact, _ = run(config, 1)
    config.train.precision = "bfloat16"
    text = jax.jit(make_train_step(config)).lower(state.create_state(config), batches(1)[0]).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert any("bf16" not in line for line in products)  # the memories
    assert all("xbf16>" in line for line in text.splitlines() if "stablehlo.convolution" in line)
    assert not any("xbf16>" in line for line in text.splitlines() if "stablehlo.exponential" in line)
    rounded, metrics = run(config, 1)
    assert all(leaf.dtype != "bfloat16" for leaf in jax.tree.leaves(rounded))
    assert all(np.isfinite(value).all() for value in metrics.values())
    # The length of an Adam step does not depend on the gradient, so compare the running statistics.
    for name in ("generator", "discriminator"):
        a, b = getattr(exact, name).batch_stats, getattr(rounded, name).batch_stats
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0.1, atol=0.05), a, b)
        assert any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
