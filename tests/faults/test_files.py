"""Real commands meet full disks, removed folders and kills: one line, one generation, nothing lost."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from daad_jax.files import finish_replacing
from daad_jax.training import checkpoint
from tests.faults.tally import Tally

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRIES = int(os.environ.get("DAAD_FAULTS", "3"))
SMALL = [
    "--config.data.height=16", "--config.data.width=16", "--config.model.levels=2",
    "--config.model.skips=(True,)", "--config.model.base_width=4", "--config.model.discriminator_width=4",
    "--config.model.memory_items=(3,3)", "--config.model.division=((1,1,1),(2,2,1))",
    "--config.train.steps=12", "--config.train.batch_size=4", "--config.train.checkpoint_every=4",
    "--config.train.log_every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stripes are normal; one with a blot is not."""
    root, rng = tmp_path_factory.mktemp("faults"), np.random.default_rng(0)
    for part, count in (("train/good", 24), ("test/good", 6), ("test/blot", 6)):
        path = root / "set" / part
        path.mkdir(parents=True)
        for i in range(count):
            image = np.tile(np.arange(16, dtype=np.uint8) % 8 * 20, (16, 1))
            image = image + rng.integers(0, 20, (16, 16)).astype(np.uint8)
            if "blot" in part:
                image[4:10, 4:10] = 255
            Image.fromarray(np.stack([image] * 3, -1)).save(path / f"{i}.png")
    return root


def start(folder, *words, largest_file=None, cache="cache"):
    """A command as a child process; `largest_file` bytes is a disk that gives no more."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"DAAD_CACHE_DIR": str(folder / cache), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if largest_file is not None:  # long before the child writes; a fork of JAX's threads is not safe
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    return child


def call(folder, *words, **options):
    child = start(folder, *words, **options)
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def train(folder, workdir):
    return ["train.py", f"--config=folder:{folder / 'set'},daad_plus,smoke", f"--workdir={workdir}", *SMALL]


@pytest.fixture(scope="module")
def finished(folder):
    code, _, err = call(folder, *train(folder, folder / "whole"))
    assert (code, err) == (0, "")
    return folder / "whole"


def leaves(workdir):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.load(workdir)[0])]


def test_a_full_disk_is_one_line_and_loses_nothing(folder, finished, capsys):
    tally, expected = Tally("train, disk full"), leaves(finished)
    for i, size in enumerate((100, 2_500, 8_000, 20_000)[: max(2, TRIES)]):
        workdir = folder / f"full{i}"
        code, _, err = call(folder, *train(folder, workdir), largest_file=size)
        errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
        if code != 2 or len(errors) != 1 or "File too large" not in errors[0]:
            tally.wrong(f"{size} bytes: exit status {code}: {err[:300]}")
            continue
        code, _, err = call(folder, *train(folder, workdir))
        same = code == 0 and all(map(np.array_equal, leaves(workdir), expected))
        tally.right() if same else tally.lost(f"{size} bytes: {err[:300]}")
    with capsys.disabled():
        tally.print()
    assert not tally.wrongs + tally.losses


def test_a_cache_without_space_is_one_line(folder):
    words = train(folder, folder / "nocache")
    code, _, err = call(folder, *words, largest_file=5_000, cache="small")
    assert code == 2
    (line,) = err.splitlines()
    assert "the image cache needs 0 MB, but the system does not give them (File too large" in line
    assert not list((folder / "small").glob("*/images.npy"))


def test_a_removed_workdir_is_noticed_at_the_next_save(folder):
    workdir = folder / "removed"
    child = start(folder, *train(folder, workdir), "--config.train.steps=100000")
    wait_for(child, lambda: (workdir / "checkpoints" / "8").is_dir())
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.rmtree(workdir, ignore_errors=True)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, err
    assert str(workdir) in lines[0]


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_killed_command_leaves_one_generation(folder, finished, command, capsys):
    """Two checkpoints of one run give two generations of files."""
    tally, rng = Tally(f"{command}, killed"), random.Random(0)
    generation = {"evaluation.json", "scores.csv", "report.html"}
    generation = {"model.json", "model.stablehlo"} if command == "export" else generation
    words = [f"{command}.py", *(["--formats=stablehlo"] if command == "export" else [])]
    workdir = folder / command
    shutil.copytree(finished, workdir)
    where = workdir / "export" if command == "export" else workdir
    began = time.monotonic()
    assert call(folder, *words, f"--workdir={workdir}")[0] == 0
    duration = time.monotonic() - began
    old = {path.name: path.read_bytes() for path in where.iterdir() if path.is_file()}
    shutil.rmtree(workdir / "checkpoints" / "12")
    for _ in range(TRIES):
        child = start(folder, *words, f"--workdir={workdir}")
        time.sleep(duration * rng.uniform(0.5, 1))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        finish_replacing(where, {"evaluate": "evaluation"}.get(command, command))  # as the next command does
        changed = {name for name, content in old.items() if (where / name).read_bytes() != content}
        generations = not changed or changed >= generation
        tally.right() if generations else tally.wrong(f"of {sorted(old)} only {changed} changed")
    for left in where.glob(".*partial*"):
        os.utime(left, (1, 1))
        for file in left.iterdir():
            os.utime(file, (1, 1))
    assert call(folder, *words, f"--workdir={workdir}")[0] == 0
    left = [path.name for path in where.iterdir() if "partial" in path.name or "complete" in path.name]
    with capsys.disabled():
        tally.print()
    assert (left, tally.wrongs) == ([], [])


def wait_for(child, condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
