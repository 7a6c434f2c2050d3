"""Watchers and children are killed for real: every survivor ends soon, in one line, with its own status.

The children compute nothing, so these processes are cheap. tests/faults/test_processes.py does the same with
real trainings.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOST = 3
WATCHER = """
import sys
from daad_jax import endings
from daad_jax.runtime import meeting, supervision
meeting.NEWS_S, supervision.AGREED_END_S, supervision.BLAME_S, supervision.LAST_S = 0.5, 1, 1, 0.2
port, count, index, timeout_s, code, folder = sys.argv[1:]
OTHER
with endings.errors_in_one_line("train.py"):
    cluster = meeting.Cluster("localhost", int(port), int(count), int(index))
    command = [sys.executable, "-c", code, index, folder]
    sys.exit(supervision.supervise(cluster, command, float(timeout_s)))
"""
CHILD = """
import os, signal, sys, time
from pathlib import Path
from daad_jax import endings
from daad_jax.errors import UserError
from daad_jax.runtime import supervision
supervision.BLAME_S, supervision.LAST_S = 1.5, 0.2
index, folder = int(sys.argv[1]), Path(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
def work():
    (folder / f"new{index}").write_text(str(os.getpid()))
    (folder / f"new{index}").rename(folder / str(index))
    WORK
with endings.errors_in_one_line("train.py"), supervision.following_watcher(index):
    work()
"""
SLEEP = "time.sleep(60)"


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class Run:
    """`count` watchers, some of them started. A child does `work`; a watcher does `other` first."""

    def __init__(self, folder, count, work=SLEEP, indices=None, port=None, timeout_s=30, other="pass"):
        self.folder, self.port, self.other = folder, port or free_port(), other
        self.watchers = {
            index: self._start(count, index, work, timeout_s)
            for index in (range(count) if indices is None else indices)
        }

    def _start(self, count, index, work, timeout_s):
        words = [self.port, count, index, timeout_s, CHILD.replace("WORK", work), self.folder]
        return subprocess.Popen(
            [sys.executable, "-c", WATCHER.replace("OTHER", self.other), *map(str, words)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def child(self, index):
        """The process id of a child that is at work."""
        deadline = time.monotonic() + 20
        while not (self.folder / str(index)).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int((self.folder / str(index)).read_text())

    def end(self):
        """(exit status, standard error) by index."""
        ended = {}
        for index, watcher in self.watchers.items():
            out, err = watcher.communicate(timeout=40)
            ended[index] = (watcher.returncode, err)
            self.out = out
        return ended


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def one_line(err, *says):
    assert len(err.splitlines()) == 1, err
    assert err.startswith("train.py: error: ")
    for text in says:
        assert text in err


def test_all_come_and_end_well(tmp_path):
    assert Run(tmp_path, 3, "pass").end() == {0: (0, ""), 1: (0, ""), 2: (0, "")}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_child_ends_all(tmp_path, killed):
    run = Run(tmp_path, 3)
    children = [run.child(index) for index in range(3)]
    os.kill(children[killed], signal.SIGKILL)
    for status, err in run.end().values():
        assert status == LOST
        one_line(err, f"process {killed} of 3 was ended by SIGKILL", "resumes from its last checkpoint")
    assert not any(map(is_alive, children))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_watcher_ends_all_and_its_own_child(tmp_path, killed):
    run = Run(tmp_path, 3)
    children = [run.child(index) for index in range(3)]
    run.watchers[killed].kill()
    for index, (status, err) in run.end().items():
        if index == killed:
            assert (status, err) == (-signal.SIGKILL, "")
        else:
            assert status == LOST
            one_line(err, f"process {killed} of 3 is gone: it was killed, or its machine is lost")
    time.sleep(0.3)
    assert not any(map(is_alive, children))


def test_the_blame_is_on_the_first_that_was_lost(tmp_path):
    """Child 0 is killed; JAX aborts child 1 because of that, even before its watcher has heard of it."""
    work = "time.sleep(60) if index == 0 else (time.sleep(1), os.abort())"
    run = Run(tmp_path, 2, work)
    victim = run.child(0)
    run.child(1)
    time.sleep(0.8)
    os.kill(victim, signal.SIGKILL)
    for status, err in run.end().values():
        assert status == LOST
        one_line(err, "process 0 of 2 was ended by SIGKILL")


def test_errors_that_all_have_are_not_explained_twice(tmp_path):
    for status, err in Run(tmp_path, 2, "raise UserError('the processes do not agree')").end().values():
        assert (status, err) == (2, "train.py: error: the processes do not agree\n")


def test_an_error_that_one_process_alone_has_ends_all(tmp_path):
    work = "if index == 1: raise UserError('disk full')\n    time.sleep(60)"
    ended = Run(tmp_path, 2, work).end()
    assert ended[1] == (2, "train.py: error: disk full\n")
    assert ended[0][0] == LOST
    one_line(ended[0][1], "process 1 of 2 stopped with exit status 2, and its own line says why")


def test_a_mistake_of_ours_in_one_process_ends_all(tmp_path):
    work = "if index == 1: raise KeyError('weights')\n    time.sleep(60)"
    ended = Run(tmp_path, 2, work).end()
    assert ended[1][0] == 1
    one_line(ended[1][1], "unexpected KeyError: 'weights'")
    assert ended[0][0] == LOST
    one_line(ended[0][1], "process 1 of 2 failed")


def test_a_signal_goes_on_to_the_child(tmp_path):
    run = Run(tmp_path, 2, "time.sleep(60)")
    for index in range(2):
        run.child(index)
        run.watchers[index].send_signal(signal.SIGTERM)
    assert run.end() == {0: (143, ""), 1: (143, "")}


def test_processes_that_end_one_after_the_other_are_not_lost(tmp_path):
    """All save after a signal, then end. Process 0 passes the first end on to process 2, which goes on."""
    work = "time.sleep([1.6, 0.2, 0.9][index]), sys.exit(143)"
    run = Run(tmp_path, 3, work, other="supervision.AGREED_END_S = 20")
    assert run.end() == dict.fromkeys(range(3), (143, ""))


def test_who_does_not_come_is_waited_for_and_named(tmp_path):
    run = Run(tmp_path, 4, indices=[0, 2], timeout_s=4)
    ended = run.end()
    assert [status for status, _ in ended.values()] == [2, 2]
    one_line(ended[0][1], f"process 1, 3 of 4 did not come to localhost:{run.port} in 4 s")
    one_line(ended[2][1], f"process 0 of 4 did not come to localhost:{run.port} in 4 s")
    run = Run(tmp_path, 2, indices=[0], timeout_s=3)
    run.end()
    lines = run.out.splitlines()
    assert lines[0].startswith(f"waiting for 1 of 2 processes at localhost:{run.port} (1 s of 3)")
    assert len(lines) > 2


def test_a_port_that_another_program_uses(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = Run(tmp_path, 2, port=port)
        link, _ = taken.accept()
        link.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        link.close()
        ended = run.end()
    for status, err in ended.values():
        assert status == 2
        one_line(err, f"--coordinator=localhost:{port}: another program uses this port; give all processes")


def test_other_programs_that_connect_are_no_processes(tmp_path):
    run = Run(tmp_path, 2, "pass", indices=[0])
    for content in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 500, b"daad-jax 2 x\n", b"daad-jax 2\n", b""):
        deadline = time.monotonic() + 30
        while True:
            try:
                link = socket.create_connection(("localhost", run.port))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        link.sendall(content)
        link.close()
    run.watchers |= Run(tmp_path, 2, "pass", indices=[1], port=run.port).watchers
    assert run.end() == {0: (0, ""), 1: (0, "")}


def test_different_options_are_named(tmp_path):
    port = free_port()
    runs = [Run(tmp_path, count, indices=[index], port=port) for count, index in ((2, 0), (3, 1))]
    for run in runs:
        ((status, err),) = run.end().values()
        assert status == 2
        one_line(err, "process 1 has --num_processes=3, and process 0 has 2")


def test_different_versions_are_named(tmp_path):
    port, other = free_port(), 'meeting.find_versions = lambda: ["jax-0.1", "numpy-2.0"]'
    same = other.replace("0.1", "0.2")
    runs = [Run(tmp_path, 2, indices=[i], port=port, other=o) for i, o in enumerate((same, other))]
    for run in runs:
        ((status, err),) = run.end().values()
        assert status == 2
        one_line(err, "process 1 has jax-0.1, and process 0 has jax-0.2; start all processes again")
