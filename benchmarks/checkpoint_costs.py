"""Measures how long a checkpoint takes to be saved and loaded, and how much of it the checksums take.

    python -m benchmarks.checkpoint_costs

It prints the least of several times, which other processes disturb the least.
"""

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.workload import time_call
from daad_jax.config import Config
from daad_jax.method.features import abstract_features
from daad_jax.method.state import TrainState, create_state
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import checkpoint
from daad_jax.training.checksums import describe_leaves, name_leaves

REPEATS = 12


def make_networks() -> tuple[Config, TrainState]:
    """Networks of 16 channels for images of 128 x 128, with random numbers."""
    config = Config(name="networks")
    config.data.height = config.data.width = 128
    config.model.base_width = config.model.discriminator_width = 16
    config.model.memory_items = (100,) * 4
    rng = np.random.default_rng(0)
    state = create_state(config)
    return config, jax.tree.map(lambda x: rng.random(x.shape, np.float32) if x.ndim else x, state)


def make_memories(items: int) -> tuple[Config, TrainState]:
    """Memories of so many items, with the frozen extractor; random numbers."""
    config = Config(name=f"memories of {items} items")
    config.data.height = config.data.width = 128
    config.model.features, config.model.items = "efficientnet_lite0", "coreset"
    config.model.blocks, config.model.memory_items = (8, 0), (items, 200)
    config.score.distance, config.score.gamma = "squared", 1.0
    rng = np.random.default_rng(0)
    features = jax.tree.map(lambda x: rng.random(x.shape, np.float32), abstract_features(config))
    return config, TrainState(np.int32(1), None, None, features)  # type: ignore[arg-type]


def least_ms(function: Callable[[], object]) -> float:
    return 1000 * min(time_call(function) for _ in range(REPEATS))


def measure(config: Config, state: TrainState) -> str:
    """A line about one checkpoint."""
    config.data.range, config.data.bits = "type", 8
    scores = tuple(np.linspace(1, 2, 500).tolist())
    unit = Unit(1.0, 0.5)
    calibration = Calibration(unit, unit, unit, unit, 2.0, config.score.gamma, 0.05, scores)
    steps = iter(range(1, 10**6))
    with tempfile.TemporaryDirectory() as folder:
        with closing(checkpoint.Checkpoints(Path(folder), 1, create=True)) as checkpoints:

            def save() -> None:
                step: Any = np.int32(next(steps))
                checkpoints.save(replace(state, step=step), config, calibration)
                checkpoints.wait()

            save_ms = least_ms(save)
        load_ms = least_ms(lambda: checkpoint.load(Path(folder)))
    leaves = name_leaves(state)
    saving_ms = least_ms(lambda: describe_leaves(leaves))
    loading_ms = least_ms(lambda: describe_leaves(leaves, check_values=False))
    size = sum(leaf.nbytes for leaf in leaves.values()) / 1e6
    return (
        f"{config.name} ({size:.0f} MB in {len(leaves)} arrays): save {save_ms:.0f} ms, including checksums "
        f"and the check for finite values {saving_ms:.1f}; load {load_ms:.0f} ms, including checksums "
        f"{loading_ms:.1f}"
    )


if __name__ == "__main__":
    for made in (make_networks(), make_memories(20000), make_memories(60000)):
        print(measure(*made), flush=True)
