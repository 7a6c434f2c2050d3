"""What an interrupted run logged past its checkpoint is dropped, everything before is kept."""

import json
import struct

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
