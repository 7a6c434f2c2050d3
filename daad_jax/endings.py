"""How a command ends: every error and every signal in one line on standard error, with an exit status."""

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
MAX_MESSAGE = 300  # characters of an error that a library words
before_exit: list[Callable[[int], None]] = []  # called with the exit status, after the line
Hook = Callable[["sys.UnraisableHookArgs"], object]


@contextlib.contextmanager
def errors_in_one_line(program: str, debug: bool = False) -> Iterator[None]:
    """Ends the process in one line if the block raises, after every `finally` on the way.

    What the user can mend, and what the system refuses (memory, space, rights), has exit status 2. Every
    other error is a mistake of ours and has exit status 1. SIGTERM, Ctrl-C and a closed pipe (`| head`) have
    128 + the signal's number.

    Args:
        program: begins the line.
        debug: whether the traceback of an error is printed before its line.

    Raises:
        SystemExit: with the exit status.
    """

    def end(line: str, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # `2>&1 | head`: only the exit status arrives
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
        # For output that is still to be flushed.
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
    """Says what the system refused and what helps; "" for every other error."""
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
    """Describes an error that nobody foresaw: its kind, its message and its place in the code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return f"unexpected {type(error).__name__}: {str(error)[:MAX_MESSAGE]} ({place})"


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Stopped` for the block; outside the main thread, signals stay as they are."""
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
    """Sends a signal once more if Python ignored its exception; other exceptions go on to `hook`.

    Handlers run between any two lines of the main thread, also in a callback of the garbage collector
    or a `__del__`. An exception that is raised there is printed and lost.
    """
    if not isinstance(lost.exc_value, KeyboardInterrupt | Stopped):
        hook(lost)
        return
    number = getattr(lost.exc_value, "number", signal.SIGINT)
    threading.Timer(RETRY_SIGNAL_S, os.kill, (os.getpid(), number)).start()
