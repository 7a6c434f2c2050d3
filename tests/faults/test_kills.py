"""Commands are killed at each of their calls that change files, and at random moments.

The same command then gives what it would have given, and sweeps what was left.
"""

import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daad_jax.files import finish_replacing
from tests.faults.child_commands import Child
from tests.faults.small_run import STEPS, Place, have_same_bits, leaves
from tests.faults.tally import Tally, scaled

pytestmark = pytest.mark.slow
Starter = Callable[[Place, int], Child]  # starts a command that is killed at a call; 0: at none


def kills(place: Callable[[], Place], start: Starter, count: int, seed: int) -> Iterator[tuple[Place, str]]:
    """Starts a command `count` times, each time in a new place, and kills it.

    Every second time it is killed at one of its calls that change files, evenly spread over all of them, and
    else at a random moment.

    Yields:
        The place, and when the command was killed.
    """
    whole, began = start(place(), 0), time.monotonic()
    code, _, err = whole.wait()
    assert code == 0, err
    calls, seconds, rng = whole.calls(), time.monotonic() - began, random.Random(seed)
    numbers = [1 + i * (len(calls) - 1) // max(1, count // 2) for i in range(count // 2)]
    for number in numbers:
        here = place()
        child = start(here, number)
        child.wait()
        yield here, f"at {child.calls()[-1]}"
    done = 0
    while done < count - len(numbers):
        here = place()
        child = start(here, 0)
        child.process.join(rng.uniform(0, seconds))
        was_running = child.process.exitcode is None
        if not was_running:  # the machine has become faster
            seconds = min(seconds, time.monotonic() - child.started)
        child.kill()
        child.wait()
        if was_running:
            done += 1
            yield here, f"after {len(child.calls())} calls"


def new_places(folder: Path, images: Path, original: Place | None = None) -> Callable[[], Place]:
    """Makes a new place at each call: an empty one, or a copy."""
    numbers = itertools.count()

    def make() -> Place:
        path = folder / f"place{next(numbers)}"
        return original.copy(path) if original else Place(path, images)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, striped_images: Path) -> Place:
    """A run that nothing disturbed, with an evaluation and an export of its checkpoint of step 12.

    That checkpoint is then removed, so that the next commands make another generation of files.
    """
    place = Place(tmp_path_factory.mktemp("finished") / "place", striped_images)
    for program in ("train.py", "evaluate.py", "export.py"):
        code, _, err = place.start(program).wait()
        assert code == 0, err
    return place


def test_killed_trainings_resume_to_the_same_bits(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, expected = Tally("train, killed"), leaves(finished.workdir)
    places = new_places(tmp_path, finished.images)
    for place, when in kills(
        places, lambda here, number: here.start("train.py", number=number), scaled(200), 1
    ):
        place.age()
        code, _, err = place.start("train.py").wait()
        if (code, err) != (0, ""):
            tally.lost(f"{when}: exit status {code}: {err}")
        elif not have_same_bits(place.workdir, expected):
            tally.wrong(f"{when}: other bits")
        elif place.logged_steps() != list(range(2, STEPS + 1, 2)):
            tally.wrong(f"{when}: the log has steps {place.logged_steps()}")
        elif left := place.leftovers():
            tally.lost(f"{when}: leaves {left}")
        else:
            tally.right()
        shutil.rmtree(place.folder)
    finish(tally, capsys)


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_killed_commands_leave_one_generation(
    tmp_path: Path, finished: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second checkpoint gives other files; after a kill, all files are of one checkpoint."""
    original = finished.copy(tmp_path / "original")
    shutil.rmtree(original.workdir / "checkpoints" / str(STEPS))
    tally, name = Tally(f"{command}, killed"), {"evaluate": "evaluation"}.get(command, command)
    where = "run/export" if command == "export" else "run"
    old = files_of(original.folder / where)
    after = original.copy(tmp_path / "after")
    assert after.start(f"{command}.py").wait()[0] == 0
    new = files_of(after.folder / where)
    assert old.keys() == new.keys()
    changing = {file for file in old if old[file] != new[file]}
    places = new_places(tmp_path, finished.images, original)
    for place, when in kills(
        places, lambda here, number: here.start(f"{command}.py", number=number), scaled(100), 2
    ):
        place.age()
        finish_replacing(place.folder / where, name)  # as the next command does
        found = files_of(place.folder / where)
        changed = {file for file in old if found.get(file) != old[file]}
        code, _, err = place.start(f"{command}.py").wait()
        if changed and not changed >= changing:
            tally.wrong(f"{when}: only {sorted(changed)} changed")
        elif code:
            tally.lost(f"{when}: {err}")
        elif left := place.leftovers():
            tally.lost(f"{when}: leaves {left}")
        else:
            tally.right()
        shutil.rmtree(place.folder)
    finish(tally, capsys)


def test_killed_predictions_are_not_taken_for_whole_ones(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """scores.csv and data.json appear at the end only; the next command takes another folder."""
    tally = Tally("predict, killed")
    whole = finished.copy(tmp_path / "whole")
    assert whole.start("predict.py").wait()[0] == 0
    expected = {
        name: (whole.workdir / "predictions" / name).read_bytes() for name in ("scores.csv", "scores.jsonl")
    }
    places = new_places(tmp_path, finished.images, finished)
    for place, when in kills(
        places, lambda here, number: here.start("predict.py", number=number), scaled(100), 3
    ):
        killed = place.workdir / "predictions"
        lines = killed / "scores.jsonl"
        code, _, err = place.start("predict.py").wait()
        new = max(place.workdir.glob("predictions*"), key=lambda path: path.stat().st_ctime)
        if lines.exists() and not expected["scores.jsonl"].startswith(lines.read_bytes()):
            tally.wrong(f"{when}: other lines")
        elif (killed / "scores.csv").exists() and (killed / "scores.csv").read_bytes() != expected[
            "scores.csv"
        ]:
            tally.wrong(f"{when}: another table")
        elif code:
            tally.lost(f"{when}: {err}")
        elif any((new / name).read_bytes() != content for name, content in expected.items()):
            tally.wrong(f"{when}: the next prediction differs")
        else:
            tally.right()
        shutil.rmtree(place.folder)
    finish(tally, capsys)


def test_killed_tables_continue(
    tmp_path: Path, striped_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cells of the table of solar cells, cut down to seconds."""
    pytest.importorskip("elpv_dataset")
    tally = Tally("table, killed")

    def start(place: Place, number: int) -> Child:
        words = ("solar_cells", "--smoke", "--seeds=0", "--only=mono", "--variants=nearest_l2,ae")
        return place.start("reproduce.py", *words, f"--out={place.folder / 'out'}", number=number)

    def results(place: Place) -> list[object]:
        tree = json.loads((place.folder / "out/smoke/results/solar_cells.json").read_text())
        measured = ("wall_s", "images_per_s", "date", "environment")
        return [{key: cell[key] for key in cell if key not in measured} for cell in tree["cells"]]

    whole = Place(tmp_path / "whole", striped_images)
    assert start(whole, 0).wait()[0] == 0
    expected = results(whole)
    for place, when in kills(new_places(tmp_path, striped_images), start, scaled(100), 4):
        place.age()
        code, _, err = start(place, 0).wait()
        if (code, err) != (0, ""):
            tally.lost(f"{when}: exit status {code}: {err}")
        elif results(place) != expected:
            tally.wrong(f"{when}: {results(place)}")
        elif left := place.leftovers():
            tally.lost(f"{when}: leaves {left}")
        else:
            tally.right()
        shutil.rmtree(place.folder)
    finish(tally, capsys)


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of the files in a folder, without the log of training."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def finish(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        tally.print()
    assert tally.is_clean
