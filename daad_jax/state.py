"""What training changes: parameters, batch statistics and optimiser states of both networks."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from daad_jax.compilation import options
from daad_jax.config import Config, TrainConfig
from daad_jax.models.discriminator import Discriminator
from daad_jax.models.generator import Generator
from daad_jax.models.layers import Form


@flax.struct.dataclass
class NetworkState:
    """One network."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """As `module.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class TrainState:
    """A run after `step` steps. `discriminator` is None where the losses need none."""

    step: jax.Array
    generator: NetworkState
    discriminator: NetworkState | None


def build_generator(
    config: Config, axis_name: str | None = None, form: Form = "auto", dtype: str = "float32"
) -> Generator:
    return Generator(config.model, config.data.channels, axis_name, form, dtype)


def build_discriminator(
    config: Config, axis_name: str | None = None, dtype: str = "float32"
) -> Discriminator:
    return Discriminator(config.model, axis_name, dtype)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then constant or cosine to zero."""
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
    """`beta1`: in place of `config.beta1`, for a step that computes it."""
    chosen: Any = config.beta1 if beta1 is None else beta1  # optax takes arrays, and says float
    return optax.adam(learning_rate(config), b1=chosen, b2=config.beta2)


def create(config: Config) -> TrainState:
    """The state before the first step, a function of `config.seed` alone.

    Raises:
        UserError: division rates that do not divide a feature map.
    """
    return creation(config)[1]()


def shapes(config: Config) -> TrainState:
    """As `create`, with shapes and types in place of arrays."""
    return creation(config)[0]


def creation(config: Config) -> tuple[TrainState, Callable[[], TrainState]]:
    """What `shapes` gives, and what `create` does, to be called when it is needed."""
    traced = jax.jit(_variables(config)).trace(config.seed)
    optimizer = build_optimizer(config.train)

    def network(variables: Any) -> NetworkState:
        params = variables["params"]
        moments = jax.eval_shape(optimizer.init, params)
        return NetworkState(params, variables.get("batch_stats", {}), moments)

    of_generator, of_discriminator = traced.out_info
    expected = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
        generator=network(of_generator),
        discriminator=network(of_discriminator) if of_discriminator else None,
    )

    def create() -> TrainState:
        # One program, not one for every shape of a parameter.
        program = traced.lower().compile(options(jax.default_backend(), once=True))
        # All else begins at zero, which needs no program.
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), expected)
        networks = [
            of and of.replace(params=made["params"], batch_stats=made.get("batch_stats", {}))
            for of, made in zip((state.generator, state.discriminator), program(config.seed))
        ]
        return state.replace(generator=networks[0], discriminator=networks[1])

    return expected, create


def _variables(config: Config) -> Callable[[int | jax.Array], tuple[Any, Any]]:
    """A seed -> initial variables of the generator and (or None) the discriminator."""
    data = config.data
    images = jnp.zeros((1, data.height, data.width, data.channels))

    def initial(seed: int | jax.Array) -> tuple[Any, Any]:
        generator_key, discriminator_key = jax.random.split(jax.random.key(seed))
        generator = build_generator(config).init(generator_key, images, train=False)
        if not config.uses_discriminator:
            return generator, None
        return generator, build_discriminator(config).init(discriminator_key, images, train=False)

    return initial
