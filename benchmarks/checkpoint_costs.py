"""Measures how long a checkpoint takes to be saved and loaded, with its checksums.

    python -m benchmarks.checkpoint_costs [OTHER_CHECKOUT]

With another checkout of this repository, both take turns, each in processes of its own, and the benchmark
prints the ratio of the medians.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS, REPEATS = 3, 5

# It runs in either checkout, so it uses only names that both have.
MEASURE = """
import json, statistics, sys, tempfile, time
from contextlib import closing
from pathlib import Path
import jax, numpy as np
from daad_jax.config import Config
from daad_jax.method.features import abstract_features
from daad_jax.method.state import TrainState, create_state
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import checkpoint

kind, repeats, rng = sys.argv[1], int(sys.argv[2]), np.random.default_rng(0)
config = Config(name="benchmark")
config.data.height = config.data.width = 128
config.data.range, config.data.bits = "type", 8
if kind == "networks":
    config.model.base_width = config.model.discriminator_width = 32
    config.model.levels, config.model.skips = 4, (True, True, True)
    config.model.memory_items, config.model.division = (100,) * 4, ((4, 4, 1),) * 4
    state = create_state(config)
    draw = lambda leaf: rng.random(leaf.shape, np.float32) if leaf.dtype == np.float32 else leaf
    state = jax.tree.map(draw, state)
else:
    config.model.features, config.model.items = "efficientnet_lite0", "coreset"
    config.model.blocks, config.model.memory_items = (8, 0), (int(kind), 200)
    config.score.distance, config.score.gamma = "squared", 1.0
    features = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), abstract_features(config))
    state = TrainState(np.int32(1), None, None, features)
calibration = Calibration(*[Unit(1.0, 0.5)] * 4, 2.0, config.score.gamma, 0.05, tuple(np.linspace(1, 2, 500)))
saves, loads = [], []
with tempfile.TemporaryDirectory(dir=sys.argv[3]) as folder:
    with closing(checkpoint.Checkpoints(Path(folder), 1, create=True)) as checkpoints:
        for step in range(1, repeats + 2):
            state = state.replace(step=np.int32(step))
            start = time.perf_counter()
            checkpoints.save(state, config, calibration)
            checkpoints.wait()
            saves.append(1000 * (time.perf_counter() - start))
    for _ in range(repeats + 1):
        start = time.perf_counter()
        checkpoint.load(Path(folder))
        loads.append(1000 * (time.perf_counter() - start))
size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state)) / 1e6
print(json.dumps([size, len(jax.tree.leaves(state)), min(saves[1:]), min(loads[1:])]))
"""


def measure(checkout: Path, kind: str) -> list[float]:
    """MB and leaves of a state, and the least ms of saving and of loading it."""
    command = [sys.executable, "-c", MEASURE, kind, str(REPEATS), "."]
    child = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(child.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> None:
    checkouts = [Path.cwd(), *map(Path, arguments)]
    for kind in ("networks", "20000", "60000"):
        rounds = [[measure(checkout, kind) for checkout in checkouts] for _ in range(ROUNDS)]
        size, leaves = rounds[0][0][:2]
        print(
            f"{'networks' if kind == 'networks' else 'features'}, {size:.1f} MB in {leaves:.0f} arrays:",
            end=" ",
        )
        for place, name in ((2, "save"), (3, "load")):
            medians = [statistics.median(each[i][place] for each in rounds) for i in range(len(checkouts))]
            ratio = f" ({medians[0] / medians[1]:.3f} of the other's)" if len(medians) > 1 else ""
            print(f"{name} {medians[0]:.0f} ms{ratio}", end="; " if name == "save" else "\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
