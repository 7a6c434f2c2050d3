"""Disks that are full, read-only or gone: one line, nothing is lost, and the same command goes on later."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.small_run import Place, have_same_bits, leaves
from tests.faults.tally import Tally, scaled
from tests.faults.test_kills import files_of, finish, new_places
from tests.faults.test_kills import finished as finished

pytestmark = pytest.mark.slow
PROGRAMS = ("train.py", "evaluate.py", "predict.py", "export.py")
NO_MATTER = "the log ends here"  # a command goes on without its log


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of this size at `folder`. The test is skipped where nothing may be mounted."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("no disk may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def split_lines(err: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings of a command."""
    lines = err.splitlines()
    return [x for x in lines if not x.startswith("warning: ")], [
        x for x in lines if x.startswith("warning: ")
    ]


def judge(
    tally: Tally, fault: str, place: Place, program: str, ended: tuple[int, str, str], expected: object
) -> bool:
    """Counts a command that ended in anything else than one line.

    A command may end well if only its log has failed, or if nothing that it makes has failed. The record of
    the range of images, for instance, only saves time.
    """
    code, _, err = ended
    errors, warnings = split_lines(err)
    if code == 0 and not errors and any(NO_MATTER in line for line in warnings):
        return True
    if code == 0 and not err and outcome(place, program) == expected:
        return True
    if code != 2 or len(errors) != 1 or not errors[0].startswith(f"{program}: error: "):
        tally.wrong(f"{program}, {fault}: exit status {code}: {err}")
        return False
    return True


def goes_on(tally: Tally, fault: str, place: Place, program: str, expected: object) -> None:
    """The same command, with space, gives what it would have given."""
    code, _, err = place.start(program).wait()
    if code:
        tally.lost(f"{program}, {fault}, then with space: {err}")
    elif outcome(place, program) != expected:
        tally.wrong(f"{program}, {fault}: another outcome")
    else:
        tally.right()


def outcome(place: Place, program: str) -> object:
    """What a command has made, as far as it does not hold times."""
    if program == "train.py":
        return [leaf.tobytes() for leaf in leaves(place.workdir)]
    if program == "evaluate.py":
        return (place.workdir / "scores.csv").read_bytes()
    if program == "predict.py":
        newest = max(place.workdir.glob("predictions*"), key=lambda path: path.stat().st_ctime_ns)
        return (newest / "scores.csv").read_bytes()
    return (place.workdir / "export" / "model.stablehlo").read_bytes()


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_space_at_a_call(
    tmp_path: Path, finished: Place, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each call that makes or moves a file in turn finds no space."""
    tally = Tally(f"{program.removesuffix('.py')}, no space at a call")
    original = None if program == "train.py" else finished
    place = new_places(tmp_path, finished.images, original)
    whole = place()
    child = whole.start(program)
    assert child.wait()[0] == 0
    numbers = [n for n, call in enumerate(child.calls(), 1) if not call.startswith(("os.remove", "os.rmdir"))]
    count, expected = min(len(numbers), scaled(100)), outcome(whole, program)
    for index in range(count):
        here = place()
        child = here.start(program, number=numbers[index * len(numbers) // count], kind="full disk")
        ended = child.wait()
        calls = child.calls()
        fault = f"no space at {calls[numbers[index * len(numbers) // count] - 1]}"
        if judge(tally, fault, here, program, ended, expected):
            goes_on(tally, fault, here, program, expected)
        shutil.rmtree(here.folder)
    finish(tally, capsys)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk(
    tmp_path: Path, finished: Place, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk has room for a part of what a command writes; then it gets more."""
    tally = Tally(f"{program.removesuffix('.py')}, full disk")
    whole = (new_places(tmp_path, finished.images, None if program == "train.py" else finished))()
    before = used(whole.folder)
    assert whole.start(program).wait()[0] == 0
    expected, needed = outcome(whole, program), used(whole.folder) - before
    rng = random.Random(5)
    for number in range(scaled(40, least=2)):
        disk = tmp_path / f"disk{number}"
        size = before + rng.randint(0, max(0, needed - 8))
        with small_disk(disk, max(size, 8)):
            here = Place(disk / "place", finished.images)
            if program != "train.py":
                finished.copy(here.folder)
            child = here.start(program, outputs=tmp_path / f"outputs{number}")
            ended, fault = child.wait(), f"{size} of {before + needed} kB"
            if ended[0] == 0 or judge(tally, fault, here, program, ended, expected):
                remount(disk, f"size={4 * (before + needed) + 4096}k")
                code, _, err = here.start(program, outputs=tmp_path / f"more{number}").wait()
                if code:
                    tally.lost(f"{program}, {fault}, then with space: {err}")
                elif outcome(here, program) != expected:
                    tally.wrong(f"{program}, {fault}: another outcome")
                else:
                    tally.right()
    finish(tally, capsys)


def used(folder: Path) -> int:
    """The kilobytes that the files and folders below a folder take."""
    return sum(-(-path.lstat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_read_only_disk(tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says so in one line, leaves the run as it is, and writes elsewhere if it may."""
    tally, disk = Tally("read-only"), tmp_path / "disk"
    with small_disk(disk, 64_000):
        place = finished.copy(disk / "place")
        remount(disk, "ro")
        before = files_of(place.workdir)
        for program in (*PROGRAMS, "train.py"):
            code, _, err = place.start(program, outputs=tmp_path / f"{program}-outputs").wait()
            errors, _ = split_lines(err)
            is_clear = len(errors) == 1 and "Read-only file system" in errors[0]
            tally.right() if code == 2 and is_clear else tally.wrong(f"{program}: {code} {err}")
        for program, words in (
            ("predict.py", [finished.images / "test", f"--out={tmp_path / 'predictions'}"]),
            ("evaluate.py", [f"--out={tmp_path / 'evaluation'}"]),
            ("export.py", ["--formats=stablehlo", f"--output={tmp_path / 'export'}"]),
        ):
            words = [f"--workdir={place.workdir}", *words]
            code, _, err = place.start(program, *words, outputs=tmp_path / f"{program}-elsewhere").wait()
            tally.right() if code == 0 else tally.lost(f"{program} elsewhere: {code} {err}")
        if files_of(place.workdir) != before:
            tally.wrong("the workdir has changed")
    finish(tally, capsys)


@pytest.mark.parametrize("way", ["removed", "replaced", "unmounted"])
def test_a_workdir_that_goes_away_while_it_trains(tmp_path: Path, finished: Place, way: str) -> None:
    """The run ends at its next save, in one line."""
    disk = tmp_path / "disk"
    with small_disk(disk, 64_000):
        place = Place(disk / "place", finished.images)
        words = [*place.default_words("train.py"), "--config.train.steps=100000"]
        child = place.start("train.py", *words, outputs=tmp_path / "outputs")
        deadline = time.monotonic() + 120
        while not (place.workdir / "checkpoints" / "8").is_dir():
            assert child.process.exitcode is None, child.err()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if way in ("removed", "replaced"):
            while place.workdir.exists():  # the run writes on
                shutil.rmtree(place.workdir, ignore_errors=True)
            if way == "replaced":
                finished.copy(tmp_path / "other").workdir.rename(tmp_path / "new")
                shutil.copytree(tmp_path / "new", place.workdir)
        else:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
        code, _, err = child.wait(120)
        errors, _ = split_lines(err)
        assert code == 2, err
        assert len(errors) == 1, err
        assert str(place.workdir) in errors[0]
        if way == "replaced":
            assert have_same_bits(place.workdir, leaves(finished.workdir))
    assert not os.path.ismount(disk)


def test_a_full_cache_is_one_line(tmp_path: Path, finished: Place) -> None:
    """The cache alone lies on a small disk."""
    disk = tmp_path / "disk"
    with small_disk(disk, 12):
        place = Place(tmp_path / "place", finished.images)
        words = [*place.default_words("train.py"), f"--config.data.cache_dir={disk}"]
        code, _, err = place.start("train.py", *words).wait()
        assert code == 2
        errors, _ = split_lines(err)
        assert len(errors) == 1, err
        assert "the image cache needs 0 MB, but the system does not give them" in errors[0]
        assert not list(disk.glob("*/images.npy"))


def test_damaged_programs_are_compiled_again(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """JAX's cache of compiled programs: cut, as a kill leaves them, or with a flipped bit."""
    tally, rng, expected = Tally("compiled programs, damaged"), random.Random(6), leaves(finished.workdir)
    place, programs = new_places(tmp_path, finished.images), tmp_path / "programs"
    environment = {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    assert place().start("train.py", environment=environment).wait()[0] == 0
    sound = {path: path.read_bytes() for path in programs.iterdir() if path.is_file()}
    for number in range(scaled(20, least=2)):
        for path, content in sound.items():
            if number % 2:
                changed = bytearray(content)
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                path.write_bytes(changed)
            else:
                path.write_bytes(content[: rng.randrange(len(content))])
        here, way = place(), "flipped" if number % 2 else "cut"
        code, _, err = here.start("train.py", environment=environment).wait()
        if (code, err) != (0, ""):
            tally.lost(f"{way}: {code} {err}")
        elif not have_same_bits(here.workdir, expected):
            tally.wrong(f"{way}: other bits")
        else:
            tally.right()
    assert sound
    finish(tally, capsys)
