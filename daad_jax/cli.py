"""Runs a command of the terminal: defines and parses its options, prints its help, and starts it."""

import io
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from daad_jax import config as config_lib
from daad_jax import recipes
from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.config import MAX_BATCH, Config
from daad_jax.endings import errors_in_one_line, sigterm_raises
from daad_jax.errors import UserError, nearest
from daad_jax.held_signals import release_signals
from daad_jax.runtime import startup, supervision

HELP = ("-h", "--help")
LINE_WIDTH = 100  # characters of the help text
DEBUG_OPTION = "debug"  # every command has this option


@dataclass(frozen=True)
class Invocation:
    """A command line that a user has given.

    Attributes:
        options: the options with their values.
        words: the words that are not options.
        program: the name of the program, as the user spelled it.
    """

    options: flags.FlagValues
    words: tuple[str, ...]
    program: str

    @property
    def is_script(self) -> bool:
        """True for a script of a checkout, such as `train.py`; False for `daad-jax train`."""
        return self.program.endswith(".py")

    def spell(self, command: str) -> str:
        """Spells another command like this one: `python evaluate.py` or `daad-jax evaluate`."""
        if self.is_script:
            return f"python {command.replace('-', '_')}.py"
        return f"{self.program.rpartition(' ')[0]} {command}"

    def workdir(self) -> Path:
        """Returns the path that --workdir names.

        Raises:
            UserError: the option is missing.
        """
        if not self.options.workdir:
            raise UserError("--workdir is missing; give the folder that the training printed")
        return open_place(self.options.workdir)

    def threshold(self) -> float | None:
        """Returns the value of --threshold; None if the option is not given.

        Raises:
            UserError: the value is NaN.
        """
        value: float | None = self.options.threshold
        if value is not None and math.isnan(value):
            raise UserError("--threshold=nan: must be a number")
        return value


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        usage: the words that follow the name of the command, for the help text.
        summary: says in full sentences what the command does.
        define: adds the options to a `FlagValues`; it gets the arguments of the command, too.
        main: runs the command.
        takes_words: whether the command takes words that are not options.
        trains: whether the command trains, for the options of the compilers in `startup`.
    """

    usage: str
    summary: str
    define: Callable[[flags.FlagValues, Sequence[str]], None]
    main: Callable[[Invocation], None]
    takes_words: bool = False
    trains: bool = False


def define_workdir(options: flags.FlagValues, help_text: str) -> None:
    """Defines --workdir. Its value is None if the user does not give it."""
    define_folder(options, "workdir", help_text)


def define_folder(options: flags.FlagValues, name: str, help_text: str) -> None:
    """Defines an option that names a folder to write into. Its value is None if the user does not give it."""
    flags.DEFINE_string(name, None, help_text, flag_values=options)
    flags.register_validator(
        name,
        lambda value: "://" not in (value or "") or is_in_bucket(value),
        "must be a folder of a mounted file system, or gs://BUCKET/FOLDER; mount other storage as a folder",
        flag_values=options,
    )


def define_batch_size(options: flags.FlagValues) -> None:
    """Defines --batch_size. Its value is None if the user does not give it."""
    flags.DEFINE_integer(
        "batch_size", None, "how many images a device scores at once", 1, MAX_BATCH, flag_values=options
    )


def define_config(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Defines --config, and --config.KEY for every value. `arguments` name the recipe to load."""
    help_text = (
        f"the recipe, NAME[:words] or FILE.py[:words]; NAME is one of {', '.join(recipes.names())}. "
        "--config.a.b=VALUE changes a value of the recipe; daad_jax/config.py explains every value"
    )
    config_flags.DEFINE_config_dataclass(
        "config", Config(), help_text, options, sys_argv=["", *arguments], parse_fn=recipes.load_recipe
    )


def run(command: Command, program: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Runs a command. Every error ends the command with one line, see `endings.errors_in_one_line`.

    Args:
        command: the command.
        program: the name of the program in messages; None: the name of the running script.
        arguments: the words after the name; None: the arguments of this process.

    Raises:
        SystemExit: the command ended early; the code is its exit status.
    """
    # Prepare the process. This may restart the program, so it comes first.
    program = Path(sys.argv[0]).name if program is None else program
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    startup.restart_with_large_pages()
    startup.trace_quickly()
    startup.compile_quickly(command.trains)
    if command.trains:
        startup.limit_tpu_kernels()

    # Silence the libraries, and make names printable.
    is_debugged = f"--{DEBUG_OPTION}" in arguments
    if not is_debugged:
        startup.quiet_libraries()
        if supervision.is_child():
            startup.quiet_compiled_code()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need not be valid text

    # Run the command, or print its help.
    with sigterm_raises(), errors_in_one_line(program, is_debugged):
        release_signals()
        startup.enable_compilation_cache()
        if any(word in HELP for word in arguments):
            print(help_text(command, program))
        else:
            command.main(_parse(command, program, arguments))
        if sys.stdout:
            sys.stdout.flush()


def _define_debug(options: flags.FlagValues) -> None:
    help_text = "show the messages of the libraries, and where in the code an error arose"
    flags.DEFINE_bool(DEBUG_OPTION, False, help_text, flag_values=options)


def _parse(command: Command, program: str, arguments: Sequence[str]) -> Invocation:
    """Parses a command line.

    Raises:
        UserError: an option, a recipe, a key or a value is unknown.
    """
    options = flags.FlagValues()
    try:
        command.define(options, arguments)
        _define_debug(options)
        words = options([program, *arguments])[1:]
        _refuse_repeated(options, arguments)
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


def _refuse_repeated(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Raises UserError if a tuple of the recipe or a list is given twice.

    absl would join both tuples, and use only the last list. If another option is given twice, its last value
    counts.
    """
    given = Counter(word.partition("=")[0].lstrip("-") for word in arguments if word.startswith("-"))
    for name, count in given.items():
        if count < 2 or name not in options:
            continue
        if options[name].flag_type().endswith("tuple") or isinstance(options[name].parser, flags.ListParser):
            raise UserError(f"--{name} is given {count} times; give it once, with all values")


def _explain_unknown_option(error: flags.UnrecognizedFlagError, options: flags.FlagValues) -> str:
    """Returns a line about an unknown option, with the most similar option or key of the recipe."""
    name = error.flagname
    known = config_lib.all_keys() if "config" in options else []
    keys = [key for key in known if key.rpartition(".")[2] == name]
    match = nearest(name, options) or (f"config.{keys[0]}" if keys else "")
    hint = f"did you mean --{match}?" if match else "--help shows all options"
    return f"--{name}: no such option; {hint}"


def _in_plain_words(message: str) -> str:
    """Replaces Python's words for a text that is not a number, in a message of absl about a value."""
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", message)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", message)


def _explain_config_error(error: Exception, arguments: Sequence[str]) -> str:
    """Returns a line about an error of config_flags, which concerns a key or a value."""
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


def help_text(command: Command, program: str) -> str:
    """Returns the help text: usage, summary, and all options in the order of their definition."""
    options = flags.FlagValues()
    command.define(options, [])
    _define_debug(options)
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
