"""One training step of both networks: a pure function that knows no devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from daad_jax.config import Config
from daad_jax.method import restoration
from daad_jax.method.features import make_encoder
from daad_jax.method.losses import adversarial_loss, discriminator_loss, distance
from daad_jax.method.state import (
    NetworkState,
    TrainState,
    build_discriminator,
    build_generator,
    build_optimizer,
)

Metrics = dict[str, jax.Array]


def make_train_step(
    config: Config, axis_name: str | None = None
) -> Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]:
    """Makes the training step of a configuration.

    Args:
        config: a validated configuration.
        axis_name: the mapped axis over which gradients, metrics and batch statistics are averaged;
            None on one device.

    Returns:
        A function `train_step(state, images)`. The images are uint8 or uint16 `[B, H, W, C]`. The function
        returns the next state and the metrics, float32 scalars. One forward pass of the generator updates
        both networks. Each network is updated against the parameters that the other one had before the step.
    """
    generator = build_generator(config, axis_name, dtype=config.train.precision)
    discriminator = build_discriminator(config, axis_name, config.train.precision)
    loss, encode = config.loss, make_encoder(config)

    def average(tree: Any) -> Any:
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def places(step: jax.Array, count: int) -> jax.Array:
        """Returns the positions of this device's images in the global batch, plus the step."""
        first = jax.lax.axis_index(axis_name) * count if axis_name else 0
        return step + first + jnp.arange(count)

    def update(network: NetworkState, grads: Any, batch_stats: Any, beta1: jax.Array) -> NetworkState:
        optimizer = build_optimizer(config.train, beta1)
        updates, opt_state = optimizer.update(grads, network.opt_state, network.params)
        return NetworkState(optax.apply_updates(network.params, updates), batch_stats, opt_state)

    def reconstruct(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        (fake, usage), new = generator.apply(variables, images, train=True, mutable=["batch_stats"])
        return fake, (usage, new.get("batch_stats", {}))

    def judge(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        (logits, maps), new = discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
        return (logits, maps[-1]), new.get("batch_stats", {})

    def train_step(state: TrainState, batch: jax.Array) -> tuple[TrainState, Metrics]:
        """Makes one step of both networks. Each of them runs once forwards for all losses."""
        assert state.generator is not None  # a coreset has no steps
        # The generator's forward pass, and the reconstruction loss.
        images = encode(state.features, batch)
        inputs = restoration.for_training(images, config.train.restore, places(state.step, len(images)))
        first = state.generator
        fake, pull_generator, (usage, generator_stats) = jax.vjp(
            lambda params: reconstruct(params, first.batch_stats, inputs),
            first.params,
            has_aux=True,
        )
        reconstruction, fake_grad = jax.value_and_grad(distance)(fake, images, loss.distance)
        metrics = {"reconstruction": reconstruction}
        fake_grad = loss.reconstruction * fake_grad

        # The discriminator's two passes, with the other losses and their gradients.
        if state.discriminator is not None:
            before = state.discriminator
            (real_logits, real_features), pull_real, after_real = jax.vjp(
                lambda params: judge(params, before.batch_stats, images),
                before.params,
                has_aux=True,
            )
            (fake_logits, fake_features), pull_fake, after_fake = jax.vjp(
                lambda params, x: judge(params, after_real, x), before.params, fake, has_aux=True
            )
            # The pass of the reconstructions is differentiated twice: the discriminator's loss by the
            # discriminator's parameters, and the generator's losses by the reconstruction.
            d_loss, (d_real, d_fake) = jax.value_and_grad(discriminator_loss, (0, 1))(
                real_logits, fake_logits
            )
            zeros = jnp.zeros_like(fake_features)
            d_grads = jax.tree.map(jnp.add, pull_real((d_real, zeros))[0], pull_fake((d_fake, zeros))[0])
            adversarial, g_logits = jax.value_and_grad(adversarial_loss)(fake_logits, loss.generator)
            alignment, g_features = jax.value_and_grad(distance)(fake_features, real_features, loss.distance)
            fake_grad += pull_fake((loss.adversarial * g_logits, loss.alignment * g_features))[1]
            d_grads = average(d_grads)
            metrics |= {
                "adversarial": adversarial,
                "alignment": alignment,
                "discriminator": d_loss,
                "discriminator_grad_norm": optax.tree.norm(d_grads),
            }

        # The generator's gradients, and the metrics.
        grads = average(pull_generator(fake_grad)[0])
        weights = {k: getattr(loss, k) for k in ("reconstruction", "adversarial", "alignment")}
        metrics["loss"] = sum(w * metrics[k] for k, w in weights.items() if k in metrics)
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics = average(metrics | _usage_metrics(average(usage)))

        # The updates of both networks. XLA:CPU copies a parameter before it updates the parameter in place,
        # unless XLA can prove that every read comes before the update. So each update depends on all
        # gradients, through the sum of their norms, which is never negative. beta1 is not a constant, because
        # XLA would then fold 1/2 with 1 - 1/2 and read the moments twice.
        norms = metrics["grad_norm"] + metrics.get("discriminator_grad_norm", 0.0)
        beta1 = jnp.where(norms < 0, 0.0, config.train.beta1)
        generator_state = update(state.generator, grads, generator_stats, beta1)
        discriminator_state = None
        if state.discriminator is not None:
            discriminator_state = update(state.discriminator, d_grads, after_fake, beta1)
        return TrainState(state.step + 1, generator_state, discriminator_state, state.features), metrics

    return train_step


def scan_steps(
    step: Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]:
    """Makes a function of (state, images `[K, B, H, W, C]`) that takes K steps and returns metrics `[K]`.

    The device is called once instead of K times, so a small model does not wait for Python.
    """
    return lambda state, batches: jax.lax.scan(step, state, batches)


def _usage_metrics(usage: Any) -> Metrics:
    """Computes for each memory: entropy, mean top weight, and the share of items that lead for some query."""
    return {
        f"{name}/{key}": value
        for name, statistics in usage.items()
        for key, value in {
            "entropy": statistics["entropy"],
            "top_weight": statistics["top_weight"],
            "items_in_use": jnp.mean((statistics["hits"] > 0).astype(jnp.float32)),
        }.items()
    }
