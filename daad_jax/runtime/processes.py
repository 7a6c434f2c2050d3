"""Lets several processes of one run start, agree and stop together. A single process never waits."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from daad_jax.errors import Stopped, UserError
from daad_jax.runtime.shares import Share

MESSAGE_BYTES = 1024  # size of a message to the other processes
SHUTDOWN_TIMEOUT_S = 60  # a process that ends waits so long for the others, and then ends them


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes of the run. Call this function before any computation.

    Args:
        coordinator: the address HOST:PORT of process 0; None if a TPU pod, SLURM, Kubernetes or MPI provides
            it.
        count: the number of processes of the run; None as for `coordinator`.
        index: the number of this process; None as for `coordinator`.

    Raises:
        UserError: no cluster was found, or it could not be joined.
    """
    # We handle SIGTERM ourselves: `deferred_signals` and `agreed_signal` agree on the step, also for Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S)
        # The first collective operation of a set of devices may have a deadline (30 s on CPUs). So run one
        # now for each set that the run will use, while no process is busy decoding or compiling.
        jax.pmap(lambda x: jax.lax.psum(x, "all"), "all")(np.ones(jax.local_device_count()))
        _exchange("")
    except Exception as error:  # each kind of cluster raises other errors
        raise UserError(
            f"--distributed: the processes did not meet ({str(error)[:300]}); without a TPU pod, "
            "SLURM, Kubernetes or MPI give every process --coordinator=HOST:PORT of process 0, "
            "--num_processes=N and --process_id=0 to N-1"
        ) from error


def is_first() -> bool:
    """Returns whether this is the process that prints and writes the files of the run."""
    return jax.process_index() == 0


@contextmanager
def errors_end_all() -> Iterator[None]:
    """Wraps a part that every process runs on its own. An error in one process ends all of them.

    The processes exchange their errors at the end of the block.

    Raises:
        UserError: another process had an error; the message names the process and the error.
        Stopped: another process got a signal.
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
    for process, (other_number, problem) in enumerate(endings):
        if other_number != "0":
            raise Stopped(int(other_number))
        if problem:
            raise UserError(f"process {process} of this run stopped: {problem}")


def require_same(value: str) -> None:
    """Raises UserError in all processes if they call with different values."""
    values = _exchange(value)
    if len(set(values)) > 1:
        each = "; ".join(f"process {i}: {v}" for i, v in enumerate(values))
        raise UserError(
            f"the processes of this run do not agree ({each}); start all of them with the same flags "
            "and one --workdir that all of them share"
        )


def from_first(text: str) -> str:
    """Returns the text of process 0 in every process.

    Raises:
        UserError: the text is longer than a message.
    """
    if len(text.encode("utf-8", "replace")) > MESSAGE_BYTES:
        raise UserError(f"{text[:80]}...: longer than {MESSAGE_BYTES} bytes; give a shorter name")
    return _exchange(text)[0]


def own_share(block: int) -> Share:
    """Returns the share of this process, in blocks of `block` images."""
    return Share(jax.process_index(), jax.process_count(), block)


def gather(content: bytes) -> list[bytes]:
    """Returns the contents of all processes, in the order of their numbers. Each process holds them all."""
    if jax.process_count() == 1:
        return [content]
    size = np.array(divmod(len(content), 2**20), np.int32)  # JAX has no integers of 64 bits
    lengths = np.asarray(multihost_utils.process_allgather(size)).astype(np.int64) @ [2**20, 1]
    message = np.zeros(lengths.max(), np.uint8)
    message[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(message))
    return [row[:length].tobytes() for row, length in zip(rows, lengths)]


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collects SIGTERM (a preempted machine) and Ctrl-C in a list; a second Ctrl-C raises at once.

    Python handles signals in the main thread only. In another thread the list stays empty, and signals act as
    before.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, _: object) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agreed_signal(received: list[int], meeting: bool) -> int:
    """Returns the signal that ends the run after this step, the same in every process; 0 for none.

    A single process may stop after any step. Several processes stop only after a step for which all of them
    set `meeting`.
    """
    number = max(received, default=0)
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if meeting else 0


def _exchange(text: str) -> list[str]:
    """Returns the texts of all processes, in the order of their numbers."""
    if jax.process_count() == 1:
        return [text]
    message = np.zeros(MESSAGE_BYTES, np.uint8)
    data = text.encode("utf-8", "replace")[:MESSAGE_BYTES]
    message[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(message)
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in np.asarray(rows)]
