"""A run goes on from checkpoints of any number of processes and devices, to the same result."""

import json
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from daad_jax.method.state import TrainState, create_state
from daad_jax.training import checkpoint
from tests.faults import child_commands
from tests.faults.small_run import training_options
from tests.runtime.test_supervision import free_port

pytestmark = pytest.mark.slow
SHAPES = ((1, 1), (2, 1), (4, 2), (1, 2), (4, 1), (2, 2), (1, 1))  # processes, and devices of each
STEPS_OF_EACH = 2


def train(folder: Path, images: Path, workdir: Path, steps: int, processes: int, devices: int) -> None:
    """Trains to `steps` in several processes on this machine."""
    address, children = f"localhost:{free_port()}", []
    for index in range(processes):
        words = [*training_options(images, workdir), "--config.train.batch_size=8"]
        words += [f"--config.train.steps={steps}", f"--config.train.checkpoint_every={STEPS_OF_EACH}"]
        words += ["--config.train.max_to_keep=100"]
        if processes > 1:
            words += ["--distributed", f"--coordinator={address}", f"--num_processes={processes}"]
            words += [f"--process_id={index}"]
        environment = {
            "DAAD_CACHE_DIR": str(folder / "cache"),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        outputs = folder / f"{workdir.name}-{steps}-{index}"
        children.append(child_commands.start(outputs, "train.py", words, environment))
    for child in children:
        code, out, err = child.wait(300)
        assert (code, err) == (0, ""), out
    assert f"running on {processes * devices} CPU device(s)" in children[0].out()


def flatten(state: TrainState) -> np.ndarray:
    """All numbers of both networks, with their statistics and the moments of their optimisers."""
    leaves = jax.tree.leaves((state.generator, state.discriminator))
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def states_of(workdir: Path) -> list[np.ndarray]:
    """The state of every checkpoint."""
    with closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        return [flatten(checkpoints._restore(step)[0]) for step in checkpoints.steps]


def test_a_run_goes_on_in_any_shape(tmp_path: Path, striped_images: Path) -> None:
    alone, moving = tmp_path / "alone", tmp_path / "moving"
    last = len(SHAPES) * STEPS_OF_EACH
    train(tmp_path, striped_images, alone, last, 1, 1)
    for number, (processes, devices) in enumerate(SHAPES, 1):
        train(tmp_path, striped_images, moving, number * STEPS_OF_EACH, processes, devices)
    start = flatten(create_state(checkpoint.load(alone)[1]))
    expected, found = states_of(alone), states_of(moving)
    assert len(expected) == len(found) == len(SHAPES)
    differences = [
        np.linalg.norm(b - a) / np.linalg.norm(a - start) for a, b in zip(expected, found, strict=True)
    ]
    print("relative differences after each shape:", " ".join(f"{x:.1e}" for x in differences))
    assert max(differences) < 1e-4  # other orders of sums, and the adversary enlarges their rounding
    lines = (moving / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(2, last + 1, 2))
