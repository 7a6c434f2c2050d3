"""Compares a training step with our convolutions and the same step with XLA's native ones.

    python -m benchmarks.train_step [--size 32] [--batch 64] [--width 64] [--items 500] [--rounds 5]

Both steps are timed in alternating rounds in this process. The result is the ratio of the medians.
"""

import argparse
import statistics
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from benchmarks.step_costs import prepare_whole_step
from benchmarks.workload import make_config, make_images, time_call
from daad_jax.config import Config
from daad_jax.models import layers
from daad_jax.runtime import devices


def prepare_native_step(config: Config, batch: np.ndarray) -> Callable[[], None]:
    """`prepare_whole_step` with XLA's native convolutions and default compiler options."""
    with (
        mock.patch.object(layers, "choose_implementation", return_value="native"),
        mock.patch.object(devices, "options", return_value=None),
    ):
        run = prepare_whole_step(config, batch)
        run()  # traced and compiled while the patches hold
        return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels; default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch; default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="base width; default: %(default)s")
    parser.add_argument("--items", type=int, default=500, help="items of a memory; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each step; default: %(default)s")
    arguments = parser.parse_args()
    config = make_config(arguments.size, arguments.width, arguments.items)
    batch = make_images(arguments.batch, arguments.size)
    steps = {"nn.Conv": prepare_native_step(config, batch), "daad_jax": prepare_whole_step(config, batch)}
    steps["daad_jax"]()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, run in steps.items():
            seconds[name].append(time_call(run))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"train step, {batch.shape}, base width {arguments.width}, {arguments.items} items, DAAD+, float32")
    print(f"{jax.devices()[0].platform}, median of {arguments.rounds} alternating rounds")
    for name, median in medians.items():
        print(f"{name:9} {1000 * median:8.0f} ms {arguments.batch / median:8.1f} images/s")
    print(f"daad_jax is {medians['nn.Conv'] / medians['daad_jax']:.2f} times as fast")


if __name__ == "__main__":
    main()
