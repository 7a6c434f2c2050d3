"""Ends a command: every error and every signal gets one line on standard error and an exit status."""

import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from daad_jax.buckets import is_client_error
from daad_jax.errors import Stopped, UserError, describe_os_error
from daad_jax.escaping import for_terminal

RETRY_SIGNAL_S = 0.05
MAX_MESSAGE = 300  # characters of a library's error message
before_exit: list[Callable[[int], None]] = []  # called after the line, with the exit status
Hook = Callable[["sys.UnraisableHookArgs"], object]


@contextlib.contextmanager
def errors_in_one_line(program: str, debug: bool = False) -> Iterator[None]:
    """Ends the process with one line if the block raises an error. Every `finally` of the block still runs.

    The exit status is 2 if the user can mend the error, or if the system refuses something (memory, space,
    rights). Every other error is our mistake and has exit status 1. SIGTERM, Ctrl-C and a closed pipe (`|
    head`) have 128 + the number of the signal.

    Args:
        program: the name of the program, which begins the line.
        debug: whether to print the traceback of an error before the line.

    Raises:
        SystemExit: the block raised; the code is the exit status.
    """

    def end(line: str, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # with `2>&1 | head`, nobody reads the line
            if debug and line.startswith("error"):
                traceback.print_exc()
            print(for_terminal(f"{program}: {' '.join(line.split())}"), file=sys.stderr)
        for call in before_exit:
            call(status)
        sys.exit(status)

    try:
        yield
    except UserError as error:
        end(f"error: {error}", error.status)
    except BrokenPipeError:
        # Python flushes the rest of the output at its end. Send this rest nowhere, or the flush would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end("stopped: nobody reads the output any more", 128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        end("interrupted", 128 + signal.SIGINT)
    except Stopped as stopped:
        end(f"stopped by {signal.Signals(stopped.number).name}", 128 + stopped.number)
    except Exception as error:
        if explanation := _explain(error):
            end(f"error: {explanation}", 2)
        end(f"error: {_name(error)}; this is a mistake of ours: report it with what --debug prints", 1)


def _explain(error: Exception) -> str:
    """Explains what the system refused and what helps. Returns "" for every other error."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of memory ({' '.join(str(error).split())[:150]}); try a smaller config.train.batch_size, "
            "a smaller --batch_size of evaluate or predict, a smaller config.data.height and width, or a "
            "smaller config.model.base_width"
        )
    if is_client_error(error):
        reason = " ".join(str(error).split())[:150]
        return f"the bucket does not answer ({reason}); look at the network and your rights there"
    if isinstance(error, OSError):
        return describe_os_error(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__") != "jax._src.xla_bridge":
        return ""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX finds no device (JAX_PLATFORMS={wanted!r}): {str(error) or 'its plug-in is missing'}; unset "
        "JAX_PLATFORMS, or install the packages of the device (jax[cuda13], jax[tpu])"
    )


def _name(error: Exception) -> str:
    """Describes an unexpected error: its type, its message and its place in the code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return f"unexpected {type(error).__name__}: {str(error)[:MAX_MESSAGE]} ({place})"


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Wraps a block in which SIGTERM raises `Stopped`. Outside the main thread, signals stay unchanged."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, hook = signal.signal(signal.SIGTERM, _stop), sys.unraisablehook
    sys.unraisablehook = functools.partial(_send_again, hook)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.unraisablehook = hook


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


def _send_again(hook: Hook, lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again if Python has ignored its exception. Other exceptions are passed to `hook`.

    A signal handler can run between any two lines of the main thread, also in a callback of the garbage
    collector or in a `__del__`. Python prints an exception from such a place, and then ignores the exception.
    """
    if not isinstance(lost.exc_value, KeyboardInterrupt | Stopped):
        hook(lost)
        return
    number = getattr(lost.exc_value, "number", signal.SIGINT)
    threading.Timer(RETRY_SIGNAL_S, os.kill, (os.getpid(), number)).start()
