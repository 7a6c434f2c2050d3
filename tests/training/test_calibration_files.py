"""The files of later calibrations: whole after a kill at any moment, one process at a time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daad_jax.data.samples import NormalImage
from daad_jax.errors import UserError
from daad_jax.files import exclusive
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import calibration_files

ROOT = Path(__file__).parents[2]
UNIT = Unit(1.5, 0.5)
TRAINED = Calibration(UNIT, UNIT, UNIT, UNIT, 2.0, 1.0, 0.05, (0.5, 1.25))
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training import test_calibration_files as here

left, replace = int(sys.argv[2]), os.replace

def replace_or_die(*names):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*names)

os.replace = replace_or_die
here.calibration_files.store(Path(sys.argv[1]), here.new(2.0))
"""


def new(first, images=("a.png", "b\udcff\n.png")):
    calibration = Calibration(UNIT, UNIT, UNIT, UNIT, 2.0, 1.0, 0.1, (first, first + 1, first + 2))
    return calibration_files.make(
        TRAINED, 7, calibration, rate=0.2, confidence=0.9, folders=["x"], with_held_out=True,
        images=[NormalImage(name, i, f"{i}" * 64) for i, name in enumerate(images)],
        outliers=images[1:], left_out={"cannot be read": 2}, drift="drift: ...",
    )  # fmt: skip


def test_what_is_read_is_what_was_stored(tmp_path):
    stored = new(1.0)
    file = calibration_files.store(tmp_path, stored)
    assert calibration_files.read(tmp_path, stored.label.id) == stored
    assert calibration_files.read_in_use(tmp_path) == stored.label.id == file.stem
    assert (stored.label.images, stored.label.groups, stored.label.step) == (3, 0, 7)
    assert stored.label.describe() == f"{file.stem} ({stored.label.created[:10]}, 3 images)"
    calibration_files.put_into_use(tmp_path, None)
    assert calibration_files.read_in_use(tmp_path) is None
    assert calibration_files.stored_ids(tmp_path) == [file.stem]


def test_another_checkpoint_has_another_fingerprint():
    other = Calibration(UNIT, UNIT, UNIT, UNIT, 2.0, 1.0, 0.05, (0.5, np.nextafter(1.25, 2)))
    prints = {calibration_files.fingerprint(*pair) for pair in ((TRAINED, 7), (TRAINED, 8), (other, 7))}
    assert len(prints) == 3


@pytest.mark.parametrize("replaced", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_command_leaves_the_calibration_before(tmp_path, replaced):
    """A real child dies before its first or its second file gets its name."""
    before = new(1.0)
    calibration_files.store(tmp_path, before)
    child = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(replaced)], cwd=ROOT, timeout=120)
    assert child.returncode == -9
    assert calibration_files.read_in_use(tmp_path) == before.label.id
    assert calibration_files.read(tmp_path, before.label.id) == before
    ids = calibration_files.stored_ids(tmp_path)
    assert len(ids) == 1 + replaced
    for each in ids:
        calibration_files.read(tmp_path, each)  # whole
    after = new(3.0)
    calibration_files.store(tmp_path, after)
    assert calibration_files.read_in_use(tmp_path) == after.label.id


def test_every_changed_byte_is_noticed(tmp_path):
    stored = new(1.0)
    file = calibration_files.store(tmp_path, stored)
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for place in rng.choice(len(content), 200, replace=False):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(0, 7)
        file.write_bytes(broken)
        try:
            found = calibration_files.read(tmp_path, stored.label.id)
        except UserError as error:
            messages.append(str(error))
        else:
            assert found == stored  # a space between two values, or the case of a digit
    assert len(messages) > 150
    assert all("--use training" in message for message in messages)
    file.write_bytes(content)
    about = json.loads(content)
    about["format"] = 2
    file.write_text(json.dumps(about))
    with pytest.raises(UserError, match="a newer version of daad_jax made it"):
        calibration_files.read(tmp_path, stored.label.id)


def test_one_process_at_a_time(tmp_path):
    calibration_files.store(tmp_path, new(1.0))
    with (
        exclusive(tmp_path / "calibrations" / ".lock", "busy"),
        pytest.raises(UserError, match="another process calibrates this run"),
    ):
        calibration_files.store(tmp_path, new(2.0))
