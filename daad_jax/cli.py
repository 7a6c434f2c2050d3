"""What the scripts share: flags, and bad input as one line with exit status 2."""

import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import Stopped, UserError
from daad_jax.runtime import pages
from daad_jax.runtime import startup as programs

flags.disclaim_key_flags()  # what is defined here counts as an option of the script that asks for it


class _Help(flags.BooleanFlag):
    """--help and -h: what the script does and its own options, and exit status 0."""

    def __init__(self) -> None:
        super().__init__("help", False, "show this help", short_name="h")

    def parse(self, argument: str | bool) -> None:
        from absl import app  # only here: it imports a debugger

        if self._parse(argument):
            app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)


flags.DEFINE_flag(_Help())


def define_workdir(help_text: str) -> flags.FlagHolder:
    holder = flags.DEFINE_string("workdir", None, help_text)
    flags.register_validator(
        holder,
        lambda value: "://" not in (value or ""),
        "must be a folder of a mounted file system, not a URL",
    )
    return holder


def define_config() -> flags.FlagHolder:
    help_text = "configs/NAME.py[:argument]; --config.a.b=value overrides, keys are in daad_jax/config.py"
    return config_flags.DEFINE_config_file("config", None, help_text, lock_config=True)


def checked(config: Config | None) -> Config:
    """The configuration from the flags, validated.

    Raises:
        UserError: none was given, or a value is impossible.
    """
    if config is None:
        raise UserError("--config is missing; for instance --config configs/cifar10.py")
    try:
        config.name  # noqa: B018 - config_flags keeps a failure to load until the first access
    except OSError as error:
        reason = str(error)
        if "[Errno 2]" in reason:
            reason = f"{reason.rsplit(':', 1)[-1].strip()}: no such config file; see configs/"
        raise UserError(f"--config: {reason}") from error
    config_lib.validate(config)
    return config


def run(main: Callable[..., None], positional: bool = False, trains: bool = False) -> None:
    """Parses the flags and runs `main`.

    Whatever the user can mend is one line and exit status 2; SIGTERM, Ctrl-C and a closed pipe
    (`| head`) are one line and 128 + the signal's number, after every `finally` on the way. `main` gets
    the words that are not flags where `positional` is set; elsewhere there may be none. `trains`: see
    `programs.compile_quickly`.
    """
    pages.use_large()
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _stop_later
    programs.trace_quickly()
    programs.compile_quickly(trains)
    programs.enable_compilation_cache()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest and not positional:
            raise UserError(f"unexpected argument {rest[0]!r}; options begin with --")
        main(*rest)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except flags.Error as error:
        _fail(f"{error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        _say("stopped: nobody reads its output any more")
        sys.exit(128 + signal.SIGPIPE)
    except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        if flags.FLAGS.is_parsed():
            raise  # not about the flags: a defect of ours, with its traceback
        _fail(_explain(error))
    except (AssertionError, RuntimeError) as error:
        said = _of_jax(error)
        if not said:
            raise
        _fail(said)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(128 + signal.SIGINT)
    except Stopped as stopped:
        _say(f"stopped by {signal.Signals(stopped.number).name}")
        sys.exit(128 + stopped.number)


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


def _stop_later(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal once more whose exception Python ignored.

    Handlers run between any two lines of the main thread, also in a callback of the garbage collector
    or a `__del__`, and nothing that is raised there arrives anywhere.
    """
    if not isinstance(lost.exc_value, KeyboardInterrupt | Stopped):
        return sys.__unraisablehook__(lost)
    number = getattr(lost.exc_value, "number", signal.SIGINT)
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _explain(error: Exception) -> str:
    """What config_flags met, in a line: it lets whatever happened inside it escape."""
    override = re.compile(r"^--(config\.[^=]+)")
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or error}: no such config file; see configs/"
    for argument in sys.argv[1:]:
        match = override.match(argument)
        if match and not _known(match[1]):
            near = config_lib.nearest_key(match[1].removeprefix("config."))
            hint = f"; did you mean config.{near}?" if near else ""
            return f"{match[1]}: no such key{hint}"
    return f"{type(error).__name__}: {error}"


def _of_jax(error: Exception) -> str:
    """What is wrong with the devices, where that is what JAX says, and '' elsewhere."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of memory ({' '.join(str(error).split())[:150]}); try a smaller config.train.batch_size, "
            "evaluate.py's or predict.py's --batch_size, config.data.height and width, or model.base_width"
        )
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__") != "jax._src.xla_bridge":
        return ""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX finds no device (JAX_PLATFORMS={wanted!r}): {str(error) or 'its plug-in is missing'}; unset it "
        "or install what the device needs (jax[cuda13], jax[tpu])"
    )


def _known(key: str) -> bool:
    node: object = Config()
    for part in key.split(".")[1:]:
        if not hasattr(node, part):
            return False
        node = getattr(node, part)
    return True


def _fail(message: str) -> None:
    _say("error: " + " ".join(message.split()))
    sys.exit(2)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # `2>&1 | head`: the exit status is all that arrives
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
