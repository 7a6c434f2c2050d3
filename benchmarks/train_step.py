"""One train step with our convolutions against the same step with XLA's own, side by side.

    python -m benchmarks.train_step [--size 32] [--batch 64] [--width 64] [--items 500] [--rounds 5]

Both are timed in alternating rounds of this one process; the medians' ratio is what counts.
"""

import argparse
import statistics
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from benchmarks.alone import whole_step_of
from benchmarks.workload import configuration, images, timed
from daad_jax.config import Config
from daad_jax.models import layers
from daad_jax.runtime import devices as parallel


def native_step_of(config: Config, batch: np.ndarray) -> Callable[[], None]:
    """`whole_step_of` with XLA's own convolutions, and nothing told to its compiler."""
    with (
        mock.patch.object(layers, "choose_implementation", return_value="native"),
        mock.patch.object(parallel, "options", return_value=None),
    ):
        run = whole_step_of(config, batch)
        run()  # traced and compiled here
        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("size", 32), ("batch", 64), ("width", 64), ("items", 500), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    config = configuration(chosen.size, chosen.width, chosen.items)
    batch = images(chosen.batch, chosen.size)
    forms = {"nn.Conv": native_step_of(config, batch), "daad_jax": whole_step_of(config, batch)}
    forms["daad_jax"]()
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(chosen.rounds):
        for name, run in forms.items():
            seconds[name].append(timed(run))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"train step, {batch.shape}, base width {chosen.width}, {chosen.items} items, DAAD+, float32")
    print(f"{jax.devices()[0].platform}, median of {chosen.rounds} alternating rounds")
    for name, median in medians.items():
        print(f"{name:9} {1000 * median:8.0f} ms {chosen.batch / median:8.1f} images/s")
    print(f"daad_jax is {medians['nn.Conv'] / medians['daad_jax']:.2f} times as fast")


if __name__ == "__main__":
    main()
