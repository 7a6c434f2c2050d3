"""Commands as child processes that start in a moment: forks of a process that has imported all libraries.

A child has a process number, files and signals of its own, and is killed for real. The process that forks has
not started JAX, so that its children can choose their devices.
"""

import atexit
import errno
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daad_jax.runtime import supervision

FORKS = multiprocessing.get_context("forkserver")
# What a child would import; the process that forks imports it once.
PRELOADED = (
    "daad_jax.training.loop",
    "daad_jax.evaluation.outputs",
    "daad_jax.detection.predictions",
    "daad_jax.export.exporter",
    "reproduction.run",
)
# Calls of the system that change files, as Python's audit events name them.
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child at one of the calls that change files below `root`.

    `kind` is "kill" or "full disk". `number` is the number of the call, from 1; 0: nothing goes wrong.
    """

    root: Path
    kind: str = "kill"
    number: int = 0


@dataclass
class Child:
    """A command that was started. `folder` gets its output, and the names of its calls that change files."""

    folder: Path
    process: Any
    started: float = field(default_factory=time.monotonic)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 100) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"a command has not ended in {timeout_s} s: {self.out()} {self.err()}")
        return self.process.exitcode, self.out(), self.err()

    def out(self) -> str:
        return _read(self.folder / "out")

    def err(self) -> str:
        return _read(self.folder / "err")

    def calls(self) -> list[str]:
        """The calls that changed files; the last one is where a fault was."""
        return _read(self.folder / "calls").splitlines()


def start(
    folder: Path,
    program: str,
    arguments: Sequence[object],
    environment: dict[str, str] | None = None,
    fault: Fault | None = None,
    largest_file: int = 0,
    place: Path | None = None,
) -> Child:
    """Starts a command.

    Args:
        folder: a new folder for its output.
        program: the script, such as "train.py".
        arguments: of the script.
        environment: what is changed of the environment.
        fault: what goes wrong.
        largest_file: the limit of the size of each file in bytes; 0: none.
        place: the current folder of the command.

    One of several processes (`--distributed`) has no watcher.
    """
    FORKS.set_forkserver_preload([*PRELOADED, __name__])
    folder.mkdir(parents=True)
    words = [str(argument) for argument in arguments]
    process = FORKS.Process(
        target=_run, args=(folder, program, words, environment or {}, fault, largest_file, place), daemon=True
    )
    process.start()
    return Child(folder, process)


def _run(
    folder: Path,
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    fault: Fault | None,
    largest_file: int,
    place: Path | None,
) -> None:
    """The work of a child."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o644), number)
    if place:
        os.chdir(place)
    os.environ.pop("XLA_FLAGS", None)  # of the tests
    os.environ.update(environment)
    if programs := environment.get("JAX_COMPILATION_CACHE_DIR"):
        import jax

        jax.config.update("jax_compilation_cache_dir", programs)  # it was read when JAX was imported
    if "--distributed" in arguments:  # without a watcher, whose child would have to import everything
        os.environ[supervision.CHILD] = str(os.pipe()[0])
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if fault:
        sys.addaudithook(_Hook(fault, folder / "calls"))
    sys.argv = [program, *arguments]
    try:
        _call(program, arguments)
    finally:
        atexit._run_exitfuncs()


def _call(program: str, arguments: list[str]) -> None:
    from daad_jax import cli, commands

    if program == "reproduce.py":
        import runpy

        runpy.run_path(program, run_name="__main__")
    else:
        cli.run(commands.COMMANDS[program.removesuffix(".py").replace("_", "-")], program, arguments)


class _Hook:
    """Notes each call that changes files below a folder, and lets one of them fail."""

    def __init__(self, fault: Fault, noted: Path) -> None:
        self._fault, self._root, self._count = fault, str(fault.root), 0
        self._noted = os.open(noted, os.O_WRONLY | os.O_CREAT, 0o644)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITES:
                return
        elif event not in CHANGES or (event == "os.mkdir" and os.path.isdir(arguments[0])):
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self._root):
            return
        self._count += 1
        name = f"{event} {os.path.relpath(os.fspath(path), self._root)}"
        os.write(self._noted, f"{name}\n".encode())
        if self._count != self._fault.number:
            return
        if self._fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
