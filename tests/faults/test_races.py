"""Several commands at once, for one workdir or one cache: one of them has it, or all of them are right."""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.small_run import Place, have_same_bits, leaves, training_options
from tests.faults.tally import Tally, scaled
from tests.faults.test_kills import finish, new_places
from tests.faults.test_kills import finished as finished

pytestmark = pytest.mark.slow
PARTNERS = 3
BUSY = "another process trains here"


def run_at_once(
    place: Place, program: str, words: list[list[str]], rng: random.Random, most_s: float = 0.3
) -> list[tuple[int, str, str]]:
    """Starts a command with each of the words, within `most_s` seconds; how each has ended."""
    children = []
    for each in words:
        children.append(place.start(program, *each))
        time.sleep(rng.uniform(0, most_s))
    return [child.wait() for child in children]


def test_trainings_race_for_one_workdir(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them trains, the others say so in a line, or find the run finished."""
    tally, rng, expected = Tally("races for a workdir"), random.Random(0), leaves(finished.workdir)
    place = new_places(tmp_path, finished.images)
    for _ in range(scaled(50, least=2)):
        here = place()
        words = [training_options(here.images, here.workdir)] * PARTNERS
        ended = run_at_once(here, "train.py", words, rng)
        refused = [err for code, _, err in ended if code == 2 and BUSY in err and err.count("\n") == 1]
        done = [code for code, _, err in ended if (code, err) == (0, "")]
        if not done or len(done) + len(refused) != PARTNERS:
            tally.lost(str([(code, err) for code, _, err in ended]))
        elif not have_same_bits(here.workdir, expected):
            tally.wrong("other bits")
        else:
            tally.right()
        shutil.rmtree(here.folder)
    finish(tally, capsys)


def test_trainings_race_for_one_cache(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """All train, in workdirs of their own; the cache has one entry, and no leftovers."""
    tally, rng, expected = Tally("races for a cache"), random.Random(1), leaves(finished.workdir)
    place = new_places(tmp_path, finished.images)
    for _ in range(scaled(50, least=2)):
        here = place()
        workdirs = [here.folder / str(number) for number in range(PARTNERS)]
        words = [training_options(here.images, workdir) for workdir in workdirs]
        ended = run_at_once(here, "train.py", words, rng)
        entries = [path.name for path in (here.folder / "cache").iterdir() if path.name != "ranges"]
        if any((code, err) != (0, "") for code, _, err in ended):
            tally.lost(str([(code, err) for code, _, err in ended]))
        elif len(entries) != 1:
            tally.lost(f"the cache has {entries}")
        elif not all(have_same_bits(workdir, expected) for workdir in workdirs):
            tally.wrong("other bits")
        else:
            tally.right()
        shutil.rmtree(here.folder)
    finish(tally, capsys)


@pytest.mark.parametrize("program", ["evaluate.py", "predict.py", "export.py"])
def test_other_commands_race_for_one_workdir(
    tmp_path: Path, finished: Place, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them give what one alone gives; predictions have folders of their own."""
    tally, rng = Tally(f"races of {program.removesuffix('.py')}"), random.Random(2)
    outcomes = {
        "evaluate.py": "run/scores.csv",
        "predict.py": "run/predictions*/scores.csv",
        "export.py": "run/export/model.stablehlo",
    }
    alone = finished.copy(tmp_path / "alone")
    assert alone.start(program).wait()[0] == 0
    (expected,) = [path.read_bytes() for path in alone.folder.glob(outcomes[program])]
    place = new_places(tmp_path, finished.images, finished)
    for _ in range(scaled(50, least=2)):
        here = place()
        ended = run_at_once(here, program, [here.default_words(program)] * PARTNERS, rng, 0.05)
        found = [path.read_bytes() for path in here.folder.glob(outcomes[program])]
        if any(code for code, _, _ in ended):
            tally.lost(str([err for code, _, err in ended if code]))
        elif set(found) != {expected} or len(found) != (PARTNERS if program == "predict.py" else 1):
            tally.wrong(f"{len(found)} outcomes")
        elif left := here.leftovers():
            tally.lost(f"leaves {left}")
        else:
            tally.right()
        shutil.rmtree(here.folder)
    finish(tally, capsys)
