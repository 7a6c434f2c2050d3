"""Watches over the processes of a run: when one ends, all end soon, each with a line and an exit status.

JAX's own service aborts processes from C++ code, at once or after minutes. So the command that the user
starts only watches, and its child process computes. The watchers are connected with each other. When a
watcher dies, the system closes its connections, and the other watchers notice this at once. Heartbeats show
whether a machine is lost. This file imports no JAX.
"""

import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from daad_jax import endings
from daad_jax.errors import UserError
from daad_jax.runtime.meeting import TIMEOUT_S, Cluster, meet, read_line

CHILD = "DAAD_JAX_WATCHER"  # the environment variable with the child's end of a pipe to its watcher
HEARTBEAT_S = 5.0
SILENCE_S = 30.0  # a machine that sends nothing for this time counts as lost
AGREED_END_S = 30.0  # when one process has ended with an error or a signal, the others have this time to end
# The end of another process may have caused an error. So after an error a process waits this time to hear of
# such an end. The wait is shorter for a `UserError`, whose message nearly always says the cause.
DOUBT_S = 0.5
BLAME_S = 3.0
LAST_S = 1.0  # process 0 ends this much later than the others
POLL_S = 0.1
REMEDY = "start all processes again with the same command; a training resumes from its last checkpoint"


class PartnerLost(UserError):
    """Another process of the run has ended, so this process must end, too."""

    status = 3


def is_child() -> bool:
    """Returns whether this process is the child of a watcher."""
    return CHILD in os.environ


def supervise(cluster: Cluster, command: Sequence[str] | None = None, timeout_s: float = TIMEOUT_S) -> int:
    """Waits for the other processes, and runs a command in a child process.

    SIGTERM and Ctrl-C are passed on to the child.

    Args:
        cluster: the processes of the run.
        command: the command to run; None: the command that started this process.
        timeout_s: how long to wait for the other processes, in seconds.

    Returns:
        The exit status of the child.

    Raises:
        UserError: see `meeting.meet`.
        PartnerLost: the child or another process was lost.
    """
    links = meet(cluster, timeout_s)
    ours, theirs = os.pipe()
    child = subprocess.Popen(
        command or [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {CHILD: str(ours)},
        pass_fds=[ours],
        process_group=0,  # Ctrl-C in a terminal reaches only the watcher
    )
    os.close(ours)
    try:
        with _forwarding_signals(child):
            return _Watch(cluster, links, child).run()
    finally:
        child.kill()
        child.wait()
        os.close(theirs)
        for link in links.values():
            link.close()


@contextlib.contextmanager
def following_watcher(index: int) -> Iterator[None]:
    """Wraps the work of a child process. The child ends when its watcher ends.

    After an error the child waits a moment, so that its watcher can first report a lost process.

    Args:
        index: the number of the process.
    """
    endings.before_exit.append(functools.partial(_leave, index))
    threading.Thread(target=_end_with_watcher, args=(int(os.environ[CHILD]),), daemon=True).start()
    try:
        yield
    except SystemExit as error:
        _leave(index, int(error.code or 0))
    except Exception as error:
        # The cause may be the end of another process. If so, the watcher hears of that end, reports it, and
        # ends this process.
        time.sleep(DOUBT_S if isinstance(error, UserError) else BLAME_S)
        raise


def _leave(index: int, status: int) -> None:
    """Ends this process after an error or a signal, without JAX's shutdown.

    In its shutdown, JAX would wait for the other processes, and abort if they do not come. When process 0 is
    gone, JAX aborts the other processes. So process 0 ends last.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if index == 0:
        time.sleep(LAST_S)
    os._exit(status)


def _end_with_watcher(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the watcher has ended
    os._exit(PartnerLost.status)


@contextlib.contextmanager
def _forwarding_signals(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    def forward(number: int, _: object) -> None:
        child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Watch:
    """The state of one watcher. Process 0 passes all messages on to the other processes."""

    def __init__(
        self, cluster: Cluster, links: dict[int, socket.socket], child: "subprocess.Popen[bytes]"
    ) -> None:
        self._cluster, self._links, self._child = cluster, dict(links), child
        now = time.monotonic()
        self._heard = dict.fromkeys(links, now)
        self._next_heartbeat = now
        self._deadline = float("inf")  # until this time the child may end by itself
        self._why = ""  # why the child must end
        for link in links.values():
            link.settimeout(HEARTBEAT_S)

    def run(self) -> int:
        """Waits until the child ends, and returns its exit status. Raises PartnerLost."""
        while True:
            self._listen(POLL_S)
            status = self._child.poll()
            if status is not None:
                return self._end(status)
            if time.monotonic() > self._deadline:
                self._tell(f"ended {self._why}")
                raise PartnerLost(f"{self._why}; {REMEDY}")

    def _end(self, status: int) -> int:
        """Tells the others that the child has ended, with a status or by a signal (a negative status)."""
        own = f"process {self._cluster.index} of {self._cluster.count}"
        if status == 0:
            self._tell("done")
        elif status > 1:
            self._tell(f"ended {own} stopped with exit status {status}, and its own line says why")
        else:
            # The cause may be the end of another process.
            until = time.monotonic() + (0 if status == -signal.SIGKILL else BLAME_S)
            while time.monotonic() < until:
                self._listen(POLL_S)
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else "failed"
            self._tell(f"lost {own} {how}")
            if status < 0:
                hint = ", by the system if memory was short" if -status == signal.SIGKILL else ""
                raise PartnerLost(f"{own} {how}{hint}; {REMEDY}")
        return status

    def _listen(self, seconds: float) -> None:
        """Reads the messages of the others, and tells them that this process lives. Raises PartnerLost."""
        now = time.monotonic()
        if now > self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            self._tell("alive")
        ready, _, _ = select.select(list(self._links.values()), [], [], seconds)
        for index, link in list(self._links.items()):
            if link in ready:
                try:
                    self._hear(index, read_line(link))
                except OSError:
                    self._hear(index, "")
                self._heard[index] = now
            elif now - self._heard[index] > SILENCE_S:
                self._hear(index, "")

    def _hear(self, index: int, line: str) -> None:
        """Acts on a line of another process's watcher."""
        word, _, text = line.partition(" ")
        if word == "alive":
            return
        if word == "lost":
            if self._cluster.index == 0:
                self._tell(line, but=index)
            self._lose(text)
        if word in ("ended", "passed_on"):
            self._deadline = min(self._deadline, time.monotonic() + AGREED_END_S)
            self._why = text
            if word == "passed_on":  # a third process has ended; the sender of this line has not
                return
            if self._cluster.index == 0:
                self._tell(f"passed_on {text}", but=index)
        elif word != "done":
            text = f"process {index} of {self._cluster.count} is gone: it was killed, or its machine is lost"
            self._tell(f"lost {text}", but=index)
            self._lose(text)
        self._links.pop(index).close()

    def _lose(self, text: str) -> None:
        raise PartnerLost(f"{text}; {REMEDY}")

    def _tell(self, line: str, but: int = -1) -> None:
        for index, link in self._links.items():
            if index != but:
                with contextlib.suppress(OSError):  # `_listen` notices the closed connection
                    link.sendall(line.encode() + b"\n")
