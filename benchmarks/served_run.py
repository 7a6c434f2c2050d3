"""Starts `daad-jax serve` in a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

STOP_SECONDS = 60  # the server must end in this time after a signal
ADDRESS = re.compile(r"at (http://127\.0\.0\.1:(\d+)) ")


class ServedRun(NamedTuple):
    """A server that answers.

    Attributes:
        address: `http://127.0.0.1:PORT`.
        port: the port.
        pid: the id of the process.
    """

    address: str
    port: int
    pid: int


@contextmanager
def serving(workdir: Path, options: Sequence[str] = ()) -> Iterator[ServedRun]:
    """Serves a run on a free port. At the end of the block, the server gets a SIGTERM.

    Args:
        workdir: the folder of the run.
        options: further options of the server.

    Raises:
        RuntimeError: the server ended before it was ready, or not by the signal.
    """
    command = [sys.executable, "-m", "daad_jax", "serve", f"--workdir={workdir}", "--port=0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ServedRun(*_wait_for_address(process), process.pid)
        except BaseException:
            process.terminate()
            raise
        process.terminate()
        if (status := process.wait(STOP_SECONDS)) != 128 + signal.SIGTERM:
            raise RuntimeError(f"the server ended with status {status}")


def _wait_for_address(process: "subprocess.Popen[str]") -> tuple[str, int]:
    assert process.stdout is not None
    for line in process.stdout:
        if found := ADDRESS.search(line):
            return found[1], int(found[2])
    raise RuntimeError("the server ended before it was ready; its message stands above")
