"""The training state: parameters, batch statistics and optimiser states of both networks."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from daad_jax.config import Config, TrainConfig
from daad_jax.method.features import abstract_features, channels_of, grid_of
from daad_jax.models.discriminator import Discriminator
from daad_jax.models.generator import Generator
from daad_jax.models.initializers import init_variables
from daad_jax.models.layers import Implementation


@flax.struct.dataclass
class NetworkState:
    """The state of one network: parameters, batch statistics and the state of the optimiser."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The parameters and the batch statistics, as `module.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps.

    Attributes:
        step: the number of finished steps, int32.
        generator: the generator; None if the items of the memories come from the data.
        discriminator: the discriminator; None if no loss needs it.
        features: the part that no step changes, see `features.abstract_features`; None if the networks read
            pixels.
    """

    step: jax.Array
    generator: NetworkState | None
    discriminator: NetworkState | None
    features: Any = None


def build_generator(
    config: Config,
    axis_name: str | None = None,
    implementation: Implementation = "auto",
    dtype: str = "float32",
) -> Generator:
    """Builds the generator of a configuration.

    Args:
        config: the configuration of the run.
        axis_name: the mapped axis over which batch statistics are averaged; None on one device.
        implementation: the form of the layers, see `models.layers.Implementation`.
        dtype: the type of the operands of the convolutions, "float32" or "bfloat16".
    """
    reads_pixels = not config.model.features
    channels = config.data.channels if reads_pixels else channels_of(config.model, 0)
    return Generator(config.model, channels, axis_name, implementation, dtype, reads_pixels)


def build_discriminator(
    config: Config, axis_name: str | None = None, dtype: str = "float32"
) -> Discriminator:
    """Builds the discriminator of a configuration. `build_generator` explains the arguments."""
    return Discriminator(config.model, axis_name, dtype)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Makes the function from step to learning rate: a linear warm-up, then a constant or a cosine to 0."""
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, config.steps - config.warmup_steps)
    else:
        after = optax.constant_schedule(config.learning_rate)
    if config.warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def build_optimizer(
    config: TrainConfig, beta1: float | jax.Array | None = None
) -> optax.GradientTransformation:
    """Builds Adam with the configured learning rate. If `beta1` is given, it replaces `config.beta1`."""
    chosen: Any = config.beta1 if beta1 is None else beta1  # optax takes arrays, but its type says float
    return optax.adam(learning_rate(config), b1=chosen, b2=config.beta2)


def create_state(config: Config) -> TrainState:
    """Returns the state before the first step, as numpy arrays that depend only on `config`.

    Raises:
        UserError: the division rates do not divide a feature map.
    """
    return init_state(abstract_state(config), config.seed)


def input_shape(config: Config) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the networks' input: an image, or its map of features."""
    data, model = config.data, config.model
    if not model.features:
        return (data.height, data.width, data.channels)
    return (*grid_of(model.blocks[0], data.height, data.width), channels_of(model, 0))


def abstract_state(config: Config) -> TrainState:
    """Returns the shapes and types of the state before the first step, and computes no values.

    Raises:
        UserError: the division rates do not divide a feature map.
    """
    step, features = jax.ShapeDtypeStruct((), jnp.int32), None
    if config.model.features:
        features = abstract_features(config)
    if config.uses_coreset:
        return TrainState(step, None, None, features)  # type: ignore[arg-type]
    key = jax.eval_shape(jax.random.key, 0)
    images = jax.ShapeDtypeStruct((1, *input_shape(config)), jnp.float32)
    optimizer = build_optimizer(config.train)

    def network(module: Any) -> NetworkState:
        variables = jax.eval_shape(functools.partial(module.init, train=False), key, images)
        moments = jax.eval_shape(optimizer.init, variables["params"])
        # A discriminator of one layer has no norm.
        return NetworkState(variables["params"], variables.get("batch_stats", {}), moments)

    return TrainState(
        step=step,  # type: ignore[arg-type]
        generator=network(build_generator(config)),
        discriminator=network(build_discriminator(config)) if config.uses_discriminator else None,
        features=features,
    )


def init_state(abstract: TrainState, seed: int) -> TrainState:
    """Returns the state before the first step, as numpy arrays that depend only on `seed` and the shapes.

    The state has no `features` yet (None): they depend on the training images, see
    `training.fit.prepare_features`.

    Args:
        abstract: the result of `abstract_state`.
        seed: the seed of the initial weights, 0 or more.
    """
    networks = {"generator": abstract.generator, "discriminator": abstract.discriminator}
    variables = init_variables(
        {name: network and network.variables for name, network in networks.items()}, seed
    )

    def network(name: str) -> NetworkState | None:
        if (shapes := networks[name]) is None:
            return None
        # The moments of optax begin at zero. A broadcast zero takes no memory.
        moments = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes.opt_state)
        return NetworkState(variables[name]["params"], variables[name]["batch_stats"], moments)

    return TrainState(np.zeros((), np.int32), *map(network, networks))  # type: ignore[arg-type]
