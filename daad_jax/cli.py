"""Runs a command of the terminal. A mistake that the user can mend is one line and exit status 2."""

import contextlib
import io
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from daad_jax import config as config_lib
from daad_jax import recipes
from daad_jax.config import Config
from daad_jax.errors import Stopped, UserError, nearest
from daad_jax.escaping import for_terminal
from daad_jax.runtime import startup

HELP = ("-h", "--help")
LINE_WIDTH = 100  # characters of the help text
RETRY_SIGNAL_S = 0.05


@dataclass(frozen=True)
class Invocation:
    """A command as somebody called it: its options, the words that are no options, and the program's name."""

    options: flags.FlagValues
    words: tuple[str, ...]
    program: str

    @property
    def is_script(self) -> bool:
        """True for a script of a checkout, `train.py`; False for `daad-jax train`."""
        return self.program.endswith(".py")

    def spell(self, command: str) -> str:
        """Another command, spelled as this one was: `python evaluate.py` or `daad-jax evaluate`."""
        if self.is_script:
            return f"python {command.replace('-', '_')}.py"
        return f"{self.program.rpartition(' ')[0]} {command}"

    def workdir(self) -> Path:
        """The option --workdir.

        Raises:
            UserError: the option is missing.
        """
        if not self.options.workdir:
            raise UserError("--workdir is missing; give the folder that the training printed")
        return Path(self.options.workdir)


@dataclass(frozen=True)
class Command:
    """A command: `usage` shows what follows its name, `summary` says in full sentences what it does.

    `define` adds the options to a `FlagValues`, given the arguments. `takes_words` allows words that are no
    options. `trains` is for `startup.compile_quickly`.
    """

    usage: str
    summary: str
    define: Callable[[flags.FlagValues, Sequence[str]], None]
    main: Callable[[Invocation], None]
    takes_words: bool = False
    trains: bool = False


def define_workdir(options: flags.FlagValues, help_text: str) -> None:
    flags.DEFINE_string("workdir", None, help_text, flag_values=options)
    flags.register_validator(
        "workdir",
        lambda value: "://" not in (value or ""),
        "must be a folder of a mounted file system, not a URL",
        flag_values=options,
    )


def define_config(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    help_text = (
        f"the recipe, NAME[:words] or FILE.py[:words]; NAME is one of {', '.join(recipes.names())}. "
        "--config.a.b=VALUE changes a value of the recipe; daad_jax/config.py explains every value"
    )
    config_flags.DEFINE_config_dataclass(
        "config", Config(), help_text, options, sys_argv=["", *arguments], parse_fn=recipes.load_recipe
    )


def run(command: Command, program: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Input that the user can mend ends in one line and exit status 2. SIGTERM, Ctrl-C and a closed pipe
    (`| head`) end in one line and 128 + the signal's number, after every `finally` on the way.

    Args:
        command: the command.
        program: its name in messages; None: the name of the script that runs.
        arguments: the words after its name; None: the arguments of this process.

    Raises:
        SystemExit: the command ended early; the code is its exit status.
    """
    program = Path(sys.argv[0]).name if program is None else program
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    startup.restart_with_large_pages()
    startup.trace_quickly()
    startup.compile_quickly(command.trains)
    startup.enable_compilation_cache()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    with _sigterm_raises(), errors_in_one_line(program):
        if any(word in HELP for word in arguments):
            print(_help(command, program))
        else:
            command.main(_parse(command, program, arguments))
        if sys.stdout:
            sys.stdout.flush()


def _parse(command: Command, program: str, arguments: Sequence[str]) -> Invocation:
    """The options and words of a command line.

    Raises:
        UserError: an unknown option, recipe, key or value.
    """
    options = flags.FlagValues()
    try:
        command.define(options, arguments)
        words = options([program, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_explain_unknown_option(error, options)) from error
    except flags.Error as error:
        raise UserError(_in_plain_words(str(error))) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # config_flags raises these for a key or a value of the recipe.
        raise UserError(_explain_config_error(error, arguments)) from error
    if words and not command.takes_words:
        raise UserError(f"unexpected argument {words[0]!r}; options begin with --")
    return Invocation(options, tuple(words), program)


def _explain_unknown_option(error: flags.UnrecognizedFlagError, options: flags.FlagValues) -> str:
    """One line for an option that does not exist, with the option or the key of the recipe that is meant."""
    name = error.flagname
    known = config_lib.all_keys() if "config" in options else []
    keys = [key for key in known if key.rpartition(".")[2] == name]
    match = nearest(name, options) or (f"config.{keys[0]}" if keys else "")
    hint = f"did you mean --{match}?" if match else "--help shows all options"
    return f"--{name}: no such option; {hint}"


def _in_plain_words(message: str) -> str:
    """absl's message about a value, without Python's words for a text that is no number."""
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", message)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", message)


def _explain_config_error(error: Exception, arguments: Sequence[str]) -> str:
    """One line for an error of config_flags about a key or a value."""
    override = re.compile(r"^--?(?:no)?(config\.[^=]+)")
    for argument in arguments:
        match = override.match(argument)
        if match and not _is_key(match[1]):
            near = config_lib.nearest_key(match[1].removeprefix("config."))
            hint = f"; did you mean config.{near}?" if near else ""
            return f"{match[1]}: no such key{hint}"
    return f"--config: {type(error).__name__}: {error}"


def _is_key(key: str) -> bool:
    node: object = Config()
    for part in key.split(".")[1:]:
        if not hasattr(node, part):
            return False
        node = getattr(node, part)
    return True


def _help(command: Command, program: str) -> str:
    """The help text: usage, what the command does, its options in the order of their definition."""
    options = flags.FlagValues()
    command.define(options, [])
    shown = f"python {program}" if program.endswith(".py") else program
    lines = [f"{shown} {command.usage}", "", *textwrap.wrap(command.summary, LINE_WIDTH), ""]
    for name in options:
        flag = options[name]
        spelled = f"  --[no]{name}: " if flag.boolean else f"  --{name}: "
        text = flag.help or ""
        if flag.default not in (None, [], False) and name != "config":
            text += f" (default: {str(flag.default_as_str).strip(chr(39))})"
        lines += textwrap.wrap(text, LINE_WIDTH, initial_indent=spelled, subsequent_indent=" " * 6)
    lines.append("  -h, --help: show this help")
    return "\n".join(lines)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Stopped` for the block; outside the main thread, signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, hook = signal.signal(signal.SIGTERM, _stop), sys.unraisablehook
    sys.unraisablehook = _send_again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.unraisablehook = hook


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


def _send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal once more if Python ignored its exception.

    Handlers run between any two lines of the main thread, also in a callback of the garbage collector
    or a `__del__`. An exception that is raised there is printed and lost.
    """
    if not isinstance(lost.exc_value, KeyboardInterrupt | Stopped):
        return sys.__unraisablehook__(lost)
    number = getattr(lost.exc_value, "number", signal.SIGINT)
    threading.Timer(RETRY_SIGNAL_S, os.kill, (os.getpid(), number)).start()


@contextlib.contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Errors of users, devices and memory, and signals, as one line on standard error and an exit status."""

    def end(line: str, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # `2>&1 | head`: only the exit status arrives
            print(for_terminal(f"{program}: {' '.join(line.split())}"), file=sys.stderr)
        sys.exit(status)

    try:
        yield
    except UserError as error:
        end(f"error: {error}", 2)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for output that is still to be flushed
        end("stopped: nobody reads the output any more", 128 + signal.SIGPIPE)
    except (AssertionError, RuntimeError) as error:
        explanation = _explain_jax_error(error)
        if not explanation:
            raise
        end(f"error: {explanation}", 2)
    except KeyboardInterrupt:
        end("interrupted", 128 + signal.SIGINT)
    except Stopped as stopped:
        end(f"stopped by {signal.Signals(stopped.number).name}", 128 + stopped.number)


def _explain_jax_error(error: Exception) -> str:
    """One line if JAX ran out of memory or found no device, "" for every other error."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of memory ({' '.join(str(error).split())[:150]}); try a smaller config.train.batch_size, "
            "a smaller --batch_size of evaluate or predict, a smaller config.data.height and width, or a "
            "smaller config.model.base_width"
        )
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__") != "jax._src.xla_bridge":
        return ""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return (
        f"JAX finds no device (JAX_PLATFORMS={wanted!r}): {str(error) or 'its plug-in is missing'}; unset "
        "JAX_PLATFORMS, or install the packages of the device (jax[cuda13], jax[tpu])"
    )
