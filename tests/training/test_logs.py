"""What an interrupted run logged past its checkpoint is dropped, everything before is kept."""

import json
import struct
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from daad_jax.training.logs import FileLog


def purged_from(folder):
    """The steps from which on a reader of the event files forgets what came before, by start."""
    steps = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            if event.session_log.status == event.session_log.START:
                steps.append(event.step)
            data = data[16 + length :]
    return steps


def run(workdir, first_step, steps):
    log = FileLog(workdir, first_step, 10, 4)
    for step in steps:
        log.write(step, {"loss": 1.0})
    log.close()


def test_a_resumed_log_drops_what_came_after_its_step(tmp_path, capsys):
    run(tmp_path, 0, [2, 4, 6])
    (before,) = (tmp_path / "tensorboard").iterdir()
    before.rename(before.with_name("first"))  # names differ by the second, and this is faster
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # a kill
    run(tmp_path, 4, [6, 8])
    lines = [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 6, 8]
    # TensorBoard hides points at and after the step: 4 itself was logged before and stays.
    assert sorted(purged_from(tmp_path / "tensorboard")) == [1, 5]


def test_the_time_left_is_that_of_the_steps_not_of_compiling_them(tmp_path, capsys, monkeypatch):
    clock = iter([0.0, 100.0, 104.0, 106.0])
    monkeypatch.setattr("daad_jax.training.logs.time.perf_counter", lambda: next(clock))
    run(tmp_path, 0, [2, 4, 6])
    left = [line.split()[-2] for line in capsys.readouterr().out.splitlines()]
    assert left == ["06:40", "00:12", "00:06"]


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe", b'{"step": null}', b'{"step": "4"}', b"[1]", b"[" * 10**5, b'{"step": NaN}', b"\0" * 9],
)
def test_a_damaged_line_is_removed_with_a_warning(tmp_path, capsys, damage):
    run(tmp_path, 0, [2, 4, 6])
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(before[0] + damage + b"\n" + before[1] + damage + b"\n" + before[2])
    capsys.readouterr()
    run(tmp_path, 4, [6])
    assert capsys.readouterr().err == f"warning: {path}: 2 line(s) of this log are damaged and were removed\n"
    after = path.read_bytes().splitlines(keepends=True)
    assert after[:2] == before[:2]
    assert [json.loads(line)["step"] for line in after] == [2, 4, 6]


def test_a_log_that_cannot_be_written_ends_and_the_training_goes_on(tmp_path, capsys):
    log = FileLog(tmp_path, 0, 10, 4)
    log.write(2, {"loss": 1.0})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    log._file.close()
    log._file = SimpleNamespace(write=refuse, close=refuse)
    for step in (4, 6):
        log.write(step, {"loss": 1.0})
    log.close()
    printed = capsys.readouterr()
    assert printed.err.count("the log ends here (No space left on device); the training goes on") == 1
    assert [line.split()[1] for line in printed.out.splitlines()] == ["2/10", "4/10", "6/10"]


def test_a_log_in_a_folder_that_cannot_be_used_is_one_warning(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    run(tmp_path, 0, [2, 4])
    assert len(capsys.readouterr().err.splitlines()) == 1
