"""One train step with our convolutions against the same step with XLA's own, side by side.

    python -m benchmarks.train_step [--size 32] [--batch 64] [--width 64] [--items 500] [--rounds 5]

Both are timed in alternating rounds of this one process; the medians' ratio is what counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.models import layers
from daad_jax.parallel import options
from daad_jax.state import create
from daad_jax.step import make_train_step


def configuration(size: int, width: int, items: int) -> Config:
    config = Config()
    config.data.height = config.data.width = size
    config.model.base_width = config.model.discriminator_width = width
    config.model.max_width = 8 * width
    config.model.memory_items = (items,) * 4
    return config


def compiled(config: Config, batch: np.ndarray, native: bool) -> Callable[[], None]:
    """A function that takes one step and waits for it; compiled and warm."""
    told = None if native else options(jax.default_backend())
    step = jax.jit(make_train_step(config), donate_argnums=0, compiler_options=told)
    state = create(config)
    forced = mock.patch.object(layers, "choose_form", return_value="native")
    with forced if native else nullcontext():
        executable = step.lower(state, batch).compile()

    def run() -> None:
        nonlocal state
        state, metrics = executable(state, batch)
        jax.block_until_ready((state, metrics))

    run()
    return run


def timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("size", 32), ("batch", 64), ("width", 64), ("items", 500), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    config = configuration(chosen.size, chosen.width, chosen.items)
    shape = (chosen.batch, chosen.size, chosen.size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    forms = {"nn.Conv": compiled(config, batch, True), "daad_jax": compiled(config, batch, False)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(chosen.rounds):
        for name, run in forms.items():
            seconds[name].append(timed(run))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"train step, {shape}, base width {chosen.width}, {chosen.items} items, DAAD+, float32")
    print(f"{jax.devices()[0].platform}, median of {chosen.rounds} alternating rounds")
    for name, median in medians.items():
        print(f"{name:9} {1000 * median:8.0f} ms {chosen.batch / median:8.1f} images/s")
    print(f"daad_jax is {medians['nn.Conv'] / medians['daad_jax']:.2f} times as fast")


if __name__ == "__main__":
    main()
