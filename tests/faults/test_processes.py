"""Real trainings in several processes: one is killed, late, or differs, and all of them end with a line."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.small_run import training_options
from tests.faults.tally import Tally, scaled
from tests.faults.test_kills import finish
from tests.runtime.test_supervision import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOST, BOUND_S = 3, 60
Ended = tuple[int, str]  # exit status, and standard error


class Processes:
    """The processes of a run on this machine, with their watchers."""

    def __init__(
        self,
        folder: Path,
        workdir: Path,
        count: int,
        *options: str,
        own: Callable[[int], Sequence[str]] = lambda index: (),
        delays: Sequence[float] = (),
    ) -> None:
        """`own` are options of one process, and `delays` the seconds before each one starts."""
        port, self.folder, self.workdir, self.all = (
            free_port(),
            folder,
            workdir,
            list[subprocess.Popen[str]](),
        )
        environment = os.environ | {
            "DAAD_CACHE_DIR": str(folder / "cache"), "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        }  # fmt: skip
        for index in range(count):
            time.sleep(delays[index] if delays else 0)
            words = [
                *training_options(folder / "set", workdir), "--distributed",
                f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={index}",
                *options, *own(index),
            ]  # fmt: skip
            self.all.append(
                subprocess.Popen(
                    [sys.executable, "train.py", *words], cwd=ROOT, env=environment, text=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                )
            )  # fmt: skip

    def end(self) -> tuple[list[Ended], float]:
        """How each has ended, and the seconds until the last one has."""
        began = time.monotonic()
        errors = [process.communicate(timeout=200)[1] for process in self.all]
        return [(p.returncode, err) for p, err in zip(self.all, errors)], time.monotonic() - began

    def child_of(self, index: int) -> int:
        """The process id of the child that computes."""
        words = ["ps", "--ppid", str(self.all[index].pid), "-o", "pid="]
        return int(subprocess.run(words, capture_output=True, text=True).stdout.split()[0])

    def wait_for_steps(self, count: int) -> None:
        deadline, log = time.monotonic() + 300, self.workdir / "metrics.jsonl"
        while not log.is_file() or len(log.read_text().splitlines()) < count:
            assert all(process.poll() is None for process in self.all), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, striped_images: Path) -> Path:
    root = tmp_path_factory.mktemp("processes")
    shutil.copytree(striped_images, root / "set")
    return root


def steps_of(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def are_lines(ended: Sequence[Ended], status: int, says: str) -> bool:
    """Whether each process has ended with this status and one line that says this."""
    return all(code == status and err.count("\n") == 1 and says in err for code, err in ended)


@pytest.mark.parametrize("count", [2, 4])
def test_one_of_several_is_killed(folder: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The watcher or the child of any process, at ever later steps of one run, which resumes each time."""
    tally, workdir = Tally(f"{count} processes, one killed"), folder / f"killed{count}"
    victims = [(index, is_child) for is_child in (True, False) for index in reversed(range(count))]
    for number in range(scaled(12, least=2)):
        victim, is_child = victims[number % len(victims)]
        processes = Processes(folder, workdir, count, "--config.train.steps=100000")
        processes.wait_for_steps(2 * (number + 1))
        os.kill(processes.child_of(victim) if is_child else processes.all[victim].pid, signal.SIGKILL)
        ended, seconds = processes.end()
        survivors = ended if is_child else ended[:victim] + ended[victim + 1 :]
        says = f"process {victim} of {count} {'was ended by SIGKILL' if is_child else 'is gone'}"
        if seconds < BOUND_S and are_lines(survivors, LOST, says):
            tally.right()
        else:
            tally.wrong(f"{says}: after {seconds:.0f} s {ended}")
    finish(tally, capsys)
    assert steps_of(workdir) == sorted(set(steps_of(workdir)))


def test_a_late_process_is_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("2 processes, one late")
    for number in range(scaled(4, least=1)):
        delays = [0, 4] if number % 2 == 0 else [4, 0]
        ended, _ = Processes(folder, folder / f"late{number}", 2, delays=delays).end()
        tally.right() if ended == [(0, "")] * 2 else tally.lost(str(ended))
    finish(tally, capsys)


@pytest.mark.parametrize("count", [2, 4])
def test_sigterm_to_one_saves_and_ends_all(
    folder: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, workdir = Tally(f"{count} processes, SIGTERM to one"), folder / f"preempted{count}"
    for number in range(scaled(6, least=1)):
        processes = Processes(folder, workdir, count, "--config.train.steps=100000")
        processes.wait_for_steps(2 * (number + 1))
        processes.all[(number + 1) % count].send_signal(signal.SIGTERM)
        ended, seconds = processes.end()
        saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
        is_good = ended == [(128 + signal.SIGTERM, "")] * count and saved == steps_of(workdir)[-1]
        tally.right() if is_good and seconds < BOUND_S else tally.wrong(f"{seconds:.0f} s {saved} {ended}")
    finish(tally, capsys)


def test_processes_that_differ_release_the_workdir(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the seed, in the pixels of one file, in the set of files; tests/runtime has versions and options."""
    tally = Tally("2 processes that differ")
    others = {name: folder / name for name in ("pixels", "files")}
    for other in others.values():
        shutil.copytree(folder / "set", other)
    Image.new("RGB", (32, 32)).save(others["pixels"] / "train/good/0.png")
    (others["files"] / "train/good/0.png").unlink()
    differences = {
        "seed": "--config.seed=1",
        "pixels": f"--config.data.path={others['pixels']}",
        "files": f"--config.data.path={others['files']}",
    }
    for name, option in differences.items():
        workdir = folder / f"differ-{name}"
        ended, seconds = Processes(
            folder, workdir, 2, own=lambda index, option=option: [option] * index
        ).end()  # type: ignore[misc]
        if seconds < BOUND_S + 60 and are_lines(ended, 2, "the processes of this run do not agree"):
            tally.right()
        else:
            tally.wrong(f"{name}: {seconds:.0f} s {ended}")
        with (workdir / ".training").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
    ended, _ = Processes(folder, folder / "differ-seed", 2).end()
    tally.right() if ended == [(0, "")] * 2 else tally.lost(f"all the same again: {ended}")
    finish(tally, capsys)
