"""One run in two processes, as on a pod: child processes on this machine's CPU, two devices each."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from daad_jax.method.state import create_state
from daad_jax.training import checkpoint
from tests import test_main_job as job

folder = job.folder  # the fixture

pytestmark = pytest.mark.slow


def start(folder, workdir, *arguments, processes=2):
    """The run's processes, with as many devices for all together as one process would have."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    devices = 4 // processes
    environment = os.environ | {
        "DAAD_CACHE_DIR": str(folder / "c"),
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    children = []
    for index in range(processes):
        cluster = []
        if processes > 1:
            cluster = ["--distributed", f"--coordinator=localhost:{port}"]
            cluster += [f"--num_processes={processes}", f"--process_id={index}"]
        command = [
            sys.executable, "train.py", job.config_of(folder), f"--workdir={workdir}",
            *job.SMALL, *cluster, *arguments,
        ]  # fmt: skip
        children.append(
            subprocess.Popen(
                command,
                cwd=job.ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return children


def finish(children):
    """(exit status, standard output without the collectives' own lines, standard error) of each."""
    ended = []
    for child in children:
        out, err = child.communicate(timeout=400)
        ended.append((child.returncode, [x for x in out.splitlines() if not x.startswith("[Gloo]")], err))
    return ended


def metrics(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def logged(workdir):
    return [line["step"] for line in metrics(workdir)]


def parameters(state):
    leaves = jax.tree.leaves((state.generator.params, state.discriminator.params))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_two_processes_train_as_one_and_resume(folder):
    alone, shared = folder / "alone", folder / "shared"
    (one,) = finish(start(folder, alone, processes=1))
    assert one[0] == 0, one[2]

    first, second = finish(start(folder, shared, "--config.train.steps=8"))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert second[1] == []
    assert first[1][-2].startswith("trained to step 8")
    assert first[1][-1].startswith("next: ")

    first, second = finish(start(folder, shared))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "resumed from step 8" in first[1]
    assert logged(shared) == [2, 4, 6, 8, 10, 12]
    assert len(list((shared / "tensorboard").iterdir())) == 2  # one for each start
    assert json.loads((shared / "environment.json").read_text())["processes"] == 2

    # Before Adam and the adversary have blown the rounding of another order of sums up:
    for expected, found in zip(metrics(alone)[:2], metrics(shared)[:2]):
        for key in expected.keys() - {"images_per_s"}:
            assert found[key] == pytest.approx(expected[key], rel=1e-4), key
    ends = [parameters(checkpoint.load(path)[0]) for path in (alone, shared)]
    moved = ends[0] - parameters(create_state(checkpoint.load(alone)[1]))
    assert np.linalg.norm(ends[1] - ends[0]) < 0.1 * np.linalg.norm(moved)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_both_at_one_step(folder, number):
    workdir = folder / f"preempted-{number}"
    long = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    children = start(folder, workdir, *long)
    deadline = time.monotonic() + 300
    while not (workdir / "metrics.jsonl").is_file() or len(logged(workdir)) < 2:
        assert time.monotonic() < deadline
        assert all(child.poll() is None for child in children)
        time.sleep(0.1)
    children[1].send_signal(number)
    first, second = finish(children)
    assert (first[0], second[0]) == (128 + number, 128 + number), first[2] + second[2]
    assert (first[2], second[2]) == ("", "")
    step = int(checkpoint.load(workdir)[0].step)
    assert f"stopped by {number.name}, saved at step {step};" in first[1][-1]
    assert logged(workdir) == list(range(2, step + 1, 2))


def test_bad_input_stops_both(folder):
    children = start(folder, folder / "uneven", "--config.train.batch_size=6")
    for code, _, err in finish(children):
        assert code == 2, err
        assert err.startswith("train.py: error: config.train.batch_size = 6")
        assert len(err.splitlines()) == 1


def test_what_only_one_process_meets_stops_both(folder):
    """Process 0 alone claims the workdir, and cannot."""
    children = start(folder, "/proc/nowhere")
    (code, _, err), (other_code, _, other) = finish(children)
    assert (code, other_code) == (2, 2), err + other
    assert err.startswith("train.py: error: /proc/nowhere: cannot be written")
    assert other.startswith("train.py: error: process 0 of this run stopped: /proc/nowhere: cannot")
    assert len(err.splitlines()) == len(other.splitlines()) == 1


def test_a_cluster_that_cannot_be_found_is_one_line(folder):
    for flags, says in (
        (["--distributed"], "--coordinator=HOST:PORT"),
        (["--distributed", "--coordinator=localhost:1"], "go together"),
    ):
        (ended,) = finish(start(folder, folder / "none", *flags, processes=1))
        assert ended[0] == 2, ended[2]
        assert says in ended[2]
        assert len(ended[2].splitlines()) == 1
