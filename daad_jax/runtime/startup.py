"""Prepares the process before JAX starts: memory pages, compiler options, the cache of compiled programs.

This file imports no JAX, because JAX reads these settings when it is imported.
"""

import ctypes
import gc
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import threading
import warnings
from pathlib import Path

from absl import logging as absl_logging

from daad_jax.config import DataConfig

# XLA:CPU allocates a step's memory again in every step. With pages of 4 KiB, this takes a fifth of the step.
LARGE_PAGES = "glibc.malloc.hugetlb=1"
LARGE_PAGES_OF_THE_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# XLA:CPU's loops already work on vectors, so LLVM need not unroll them. The option holds for all programs of
# a process, because XLA has no such option for one program.
FAST_COMPILATION = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
# Training also leaves out LLVM's loop strength reduction, because a step is equally fast without this pass.
# Scoring small images would be a tenth slower, so the other commands keep the pass.
FAST_COMPILATION_OF_STEP = f"{FAST_COMPILATION},-disable-lsr"
# LLVM aborts the process if it does not know an option. So this version and later ones do not get the
# options.
FIRST_UNTESTED_JAXLIB = (0, 13)
# While a command trains, a TPU's kernels may use this much of the fast memory (VMEM). With less memory, the
# compiler unrolls fewer loops. A step compiles in two thirds of the time of the default (16 MiB), and takes a
# twelfth longer by the compiler's estimate (docs/pod.md). Most runs are short, so they gain.
TPU_KERNEL_LIMIT = ("xla_tpu_scoped_vmem_limit_kib", "6144")
# libtpu aborts the process, too, if it does not know an option.
FIRST_UNTESTED_LIBTPU = (0, 1)
NOISY_LOGGERS = (
    "absl",
    "asyncio",
    "etils",
    "gcsfs",
    "google",
    "matplotlib",
    "orbax",
    "PIL",
    "tensorflow",
    "tifffile",
)
# Interpreter options that take the next word as their value.
OPTIONS_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")


def restart_with_large_pages(module: str = "daad_jax") -> None:
    """Restarts this program in the same process, with the same arguments, so that malloc uses large pages.

    glibc reads the setting only when a program starts. Nothing happens if the setting exists already, if the
    system has no large pages, or if the process does not belong to our command. For instance, a notebook or a
    debugger that runs our script is never restarted. Call this function before slow imports.

    Args:
        module: the module of our command, if `python -m` started the command.
    """
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in settings or not belongs_to_our_command(module) or not _has_large_pages():
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{settings}:{LARGE_PAGES}".strip(":")}
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed stream is None
            stream.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def belongs_to_our_command(module: str) -> bool:
    """Returns whether Python was started with the script that runs as `__main__`, or with `-m` and `module`.

    False in a notebook (`%run train.py`), under `runpy`, `pdb` or a profiler, and in a worker thread: another
    program then has state in this process. If a script of the user calls our commands, it counts as our
    command and is restarted.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    is_module, program = _started_program()
    if is_module:
        return program == module
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return bool(program and file) and os.path.samefile(program, str(file))
    except OSError:
        return False


def _started_program() -> tuple[bool, str]:
    """Returns whether the interpreter was started with `-m`, and the module or path of its program."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return True, next(words, "")
        if word == "-" or word.startswith(("-c", "-m")):  # code, or a module in the same word
            return False, ""
        if word in OPTIONS_WITH_VALUE:
            next(words, "")
        elif not word.startswith("-"):
            return False, word
    return False, ""


def _has_large_pages() -> bool:
    """Returns whether this is Linux with glibc 2.35 or later, and the kernel gives large pages on request."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        allowed = "[never]" not in LARGE_PAGES_OF_THE_KERNEL.read_text(encoding="ascii")
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35) and allowed
    except (AttributeError, OSError, ValueError):
        return False


def compile_quickly(trains: bool = False) -> None:
    """Disables compiler passes that take time and make no program faster; with `trains`, one more pass.

    Nothing changes if JAX may have other devices than the CPU, because their compilers would read the
    options, too.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    others = any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if "xla_backend_extra_options" not in flags and not others and version < FIRST_UNTESTED_JAXLIB:
        option = FAST_COMPILATION_OF_STEP if trains else FAST_COMPILATION
        os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()


def limit_tpu_kernels() -> None:
    """Limits the fast memory of a TPU's kernels, so that a training step compiles faster.

    Nothing changes without libtpu, if LIBTPU_INIT_ARGS has a limit already, or if this libtpu may not know
    the option. Call this function before JAX is imported.
    """
    name, kibibytes = TPU_KERNEL_LIMIT
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    try:
        version = tuple(int(part) for part in importlib.metadata.version("libtpu").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return
    if name not in given and version < FIRST_UNTESTED_LIBTPU:
        os.environ["LIBTPU_INIT_ARGS"] = f"{given} --{name}={kibibytes}".strip()


def quiet_libraries() -> None:
    """Silences libraries that print errors which our own lines report, or warnings about future versions.

    Python's hooks for unhandled errors are silenced, too. Only threads and callbacks of libraries reach these
    hooks: our commands end with `SystemExit`, and our threads pass their errors on. JAX still prints about
    its devices. Call this function before JAX is imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # only messages of errors that abort the process
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    _quiet_libtiff()


def _quiet_libtiff() -> None:
    """Silences the TIFF library inside Pillow, which writes to the terminal without Python.

    Nothing changes if the system does not find the functions of the TIFF library in Pillow's.
    """
    from PIL import _imaging

    pillow = ctypes.CDLL(_imaging.__file__)
    for setter in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if hasattr(pillow, setter):
            getattr(pillow, setter)(None)


def quiet_compiled_code() -> None:
    """Discards the output of compiled libraries. Python's own output stays.

    One of several processes calls this function: when another process ends, compiled libraries print stacks.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed
            continue
        stream.flush()
        own = os.dup(number)
        setattr(sys, name, os.fdopen(own, "w", 1, encoding=stream.encoding, errors=stream.errors))
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), number)


def trace_quickly() -> None:
    """Makes Python collect garbage less often, because tracing makes many objects and hardly any garbage."""
    gc.set_threshold(50_000)


def enable_compilation_cache() -> None:
    """Turns on JAX's compilation cache in our cache folder, unless JAX_COMPILATION_CACHE_DIR is set.

    Call this function before JAX is imported. JAX names the entries by program, flags, devices and versions.
    """
    folder = DataConfig().cache_directory / f"programs-{_processor_digest()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def _processor_digest() -> str:
    """Returns a digest of the instruction sets, because different machines may share a home folder."""
    return hashlib.sha256(f"{platform.machine()} {instruction_sets()}".encode()).hexdigest()[:12]


def instruction_sets() -> str:
    """Returns the instruction sets of this processor, as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    listed = [line for line in lines if line.startswith(("flags", "Features"))]  # on x86 and on ARM
    return listed[0] if listed else platform.processor()
