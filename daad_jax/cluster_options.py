"""Defines the options of a command that runs in several processes, and connects these processes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags

from daad_jax.errors import UserError
from daad_jax.runtime import supervision
from daad_jax.runtime.meeting import Cluster


def define_cluster(options: flags.FlagValues) -> None:
    """Defines --distributed, and the three options that say where the processes meet."""
    flags.DEFINE_bool(
        "distributed", False, "this process is one of several, as on a TPU pod", flag_values=options
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0; needed where no cluster tells it", flag_values=options
    )
    flags.DEFINE_integer(
        "num_processes", None, "how many processes there are, with --coordinator", 1, flag_values=options
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "the number of this process, 0 to num_processes - 1, with --coordinator",
        0,
        flag_values=options,
    )


@contextmanager
def watching_cluster(options: flags.FlagValues) -> Iterator[None]:
    """Wraps the work of a command. With --coordinator, this process watches, and its child does the work.

    Raises:
        UserError: the options do not fit together, or the processes do not meet.
        SystemExit: this process has only watched, and the work has ended; the code is the exit status.
    """
    address = (options.coordinator, options.num_processes, options.process_id)
    given = [value is not None for value in address]
    if any(given) and not (options.distributed and all(given)):
        raise UserError("--distributed, --coordinator, --num_processes and --process_id go together")
    if not all(given):
        yield
        return
    cluster = Cluster.parse(*address)
    if not supervision.is_child():
        sys.exit(supervision.supervise(cluster))
    with supervision.following_watcher(cluster.index):
        yield


def join_cluster(options: flags.FlagValues) -> None:
    """Lets JAX join the other processes if --distributed is given. Raises UserError."""
    if options.distributed:
        from daad_jax.runtime import processes

        processes.start(options.coordinator, options.num_processes, options.process_id)
