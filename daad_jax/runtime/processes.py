"""Several processes of one run: how they start, agree and stop together. Alone, nothing waits."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from daad_jax.errors import Stopped, UserError

LONGEST = 1024  # bytes of a message to the other processes
FAREWELL = 60  # seconds that a process which ends waits for the others, before it ends them


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes of the run; to be called before any computation.

    Args:
        coordinator: host:port of process 0; None where a TPU pod, SLURM, Kubernetes or MPI says it.
        count: processes of the run, or None as above.
        index: of this process, or None as above.

    Raises:
        UserError: no cluster was found, or it could not be joined.
    """
    # SIGTERM is ours: `deferred_signals` and `agreed_signal` agree on the step, also for Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=FAREWELL)
        # The first collective of a set of devices may have a deadline (on CPUs 30 s): it is met now,
        # while no process decodes or compiles, for the sets that the run will use.
        jax.pmap(lambda x: jax.lax.psum(x, "all"), "all")(np.ones(jax.local_device_count()))
        _exchange("")
    except Exception as error:  # every kind of cluster raises its own
        raise UserError(
            f"--distributed: the processes did not meet ({str(error)[:300]}); away from TPU pods, SLURM, "
            "Kubernetes and MPI give every process --coordinator=HOST:PORT of process 0, "
            "--num_processes=N and --process_id=0 to N-1"
        ) from error


def is_first() -> bool:
    """Whether this process prints and writes the run's files."""
    return jax.process_index() == 0


@contextmanager
def errors_end_all() -> Iterator[None]:
    """A part that every process does by itself. What ends it in one ends all, once all are through.

    Raises:
        UserError: another process met an error (names it).
        Stopped: another process was told to end.
    """
    if jax.process_count() == 1:
        yield
        return
    ending: BaseException | None = None
    number, text = 0, ""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        ending, number = error, getattr(error, "number", signal.SIGINT)
    except BaseException as error:
        ending, text = error, str(error) or type(error).__name__
    endings = [message.split(" ", 1) for message in _exchange(f"{number:d} {text}")]
    if ending is not None:
        raise ending
    for process, (told, problem) in enumerate(endings):
        if told != "0":
            raise Stopped(int(told))
        if problem:
            raise UserError(f"process {process} of this run stopped: {problem}")


def require_same(value: str) -> None:
    """Raises UserError, in all processes, where they come with different values."""
    values = _exchange(value)
    if len(set(values)) > 1:
        each = "; ".join(f"process {i}: {v}" for i, v in enumerate(values))
        raise UserError(
            f"the processes of this run do not agree ({each}); start all of them with the same flags "
            "and one --workdir that all of them share"
        )


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """SIGTERM (a preempted machine) and Ctrl-C only fill the list; a second Ctrl-C acts at once."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and number in noted:
            raise KeyboardInterrupt
        noted.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agreed_signal(noted: list[int], meeting: bool) -> int:
    """The signal that ends the run after this step, 0 for none: the same in every process.

    One process stops at any step; several only at those that all of them call a `meeting`.
    """
    number = max(noted, default=0)
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if meeting else 0


def _exchange(text: str) -> list[str]:
    """Every process' text, in their order."""
    if jax.process_count() == 1:
        return [text]
    message = np.zeros(LONGEST, np.uint8)
    data = text.encode("utf-8", "replace")[:LONGEST]
    message[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(message)
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in np.asarray(rows)]
