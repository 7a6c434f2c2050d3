"""Real trainings in several processes: one is killed, or differs, and all of them end with a line."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.tally import Tally
from tests.faults.test_files import ROOT, TRIES, train
from tests.faults.test_files import folder as folder
from tests.runtime.test_supervision import free_port

pytestmark = pytest.mark.slow
LOST, BOUND_S = 3, 60


def start(folder, workdir, count, *extra, own=lambda index: ()):
    """The processes of a run on this machine; `own` are options of one of them."""
    port = free_port()
    environment = os.environ | {
        "DAAD_CACHE_DIR": str(folder / "cache"), "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [
                sys.executable, *train(folder, workdir), "--distributed", f"--coordinator=localhost:{port}",
                f"--num_processes={count}", f"--process_id={index}", *extra, *own(index),
            ],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]  # fmt: skip


def end(processes):
    """(exit status, standard error) of each, and the seconds until the last one has ended."""
    began = time.monotonic()
    errors = [process.communicate(timeout=200)[1] for process in processes]
    return [(p.returncode, err) for p, err in zip(processes, errors)], time.monotonic() - began


def child_of(process):
    """The process id of the child that computes."""
    listed = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    return int(listed.stdout.split()[0])


def wait_for_steps(processes, workdir, count):
    deadline = time.monotonic() + 300
    log = workdir / "metrics.jsonl"
    while not log.is_file() or len(log.read_text().splitlines()) < count:
        assert all(process.poll() is None for process in processes), end(processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_one_of_several_is_killed(folder, capsys):
    tally, workdir = Tally("2 processes, one killed"), folder / "killed"
    for number, (victim, is_child) in enumerate([(1, False), (0, False), (1, True), (0, True)][: TRIES + 1]):
        processes = start(folder, workdir, 2, "--config.train.steps=100000")
        wait_for_steps(processes, workdir, 2 * (number + 1))
        os.kill(child_of(processes[victim]) if is_child else processes[victim].pid, signal.SIGKILL)
        ended, seconds = end(processes)
        survivors = ended if is_child else ended[1 - victim : 2 - victim]
        says = f"process {victim} of 2 {'was ended by SIGKILL' if is_child else 'is gone'}"
        good = seconds < BOUND_S and all(
            code == LOST and len(err.splitlines()) == 1 and says in err for code, err in survivors
        )
        tally.right() if good else tally.wrong(f"{says}: after {seconds:.0f} s {ended}")
    with capsys.disabled():
        tally.print()
    assert not tally.wrongs
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_processes_that_do_not_agree_release_the_workdir(folder):
    workdir = folder / "differ"
    processes = start(folder, workdir, 2, own=lambda index: [f"--config.seed={index}"])
    ended, seconds = end(processes)
    assert seconds < BOUND_S + 60  # their own work included
    for code, err in ended:
        assert code == 2
        assert len(err.splitlines()) == 1, err
        assert "the processes of this run do not agree" in err
    with (workdir / ".training").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
    processes = start(folder, workdir, 2)
    assert end(processes)[0] == [(0, ""), (0, "")]
