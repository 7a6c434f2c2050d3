"""Sets what our commands need before JAX starts: memory pages, compiler options, the cache of programs.

This file imports no JAX, since JAX reads these settings when it starts.
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
# XLA:CPU's loops are vectors already, so LLVM need not unroll them. The option holds for all programs of a
# process: XLA has no option for one program.
FAST_COMPILATION = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
# Training also leaves out LLVM's loop strength reduction: a step is as fast without. Scoring small images
# would be a tenth slower, so the other commands keep it.
FAST_COMPILATION_OF_STEP = f"{FAST_COMPILATION},-disable-lsr"
# LLVM aborts the process on an option that it does not know, so later versions do not get these options.
FIRST_UNTESTED_JAXLIB = (0, 13)
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
    """Replaces this process by itself, with the same number and arguments, so that malloc uses large pages.

    glibc reads this setting only when a process starts. Nothing happens if the setting is there already, if
    the system has no large pages, or if this process does not belong to our command: a notebook, a debugger
    or another program that runs our script goes on as it is. Call it before slow imports.

    Args:
        module: the module of our command, where `python -m` started it.
    """
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in settings or not belongs_to_our_command(module) or not _has_large_pages():
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{settings}:{LARGE_PAGES}".strip(":")}
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed one is None
            stream.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def belongs_to_our_command(module: str) -> bool:
    """True if the interpreter was started for the script that runs as `__main__`, or by `-m` for `module`.

    False in a notebook (`%run train.py`), under `runpy`, `pdb` or a profiler, and in a worker thread: the
    process then has state of somebody else. A script of the user that calls our commands itself counts as our
    command, and begins again.
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
    """True on Linux with glibc 2.35 or later if the kernel gives large pages to programs that ask."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        allowed = "[never]" not in LARGE_PAGES_OF_THE_KERNEL.read_text(encoding="ascii")
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35) and allowed
    except (AttributeError, OSError, ValueError):
        return False


def compile_quickly(trains: bool = False) -> None:
    """Leaves out compiler passes that cost time and make no program faster; if `trains`, one more pass.

    Only where the CPU is JAX's only device, because the options would reach another device's compiler too.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    others = any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if "xla_backend_extra_options" not in flags and not others and version < FIRST_UNTESTED_JAXLIB:
        option = FAST_COMPILATION_OF_STEP if trains else FAST_COMPILATION
        os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()


def quiet_libraries() -> None:
    """Silences libraries that print about errors which our own lines report, or about their own future.

    What reaches Python's hooks for unhandled errors comes from threads and callbacks of libraries: commands
    end by `SystemExit`, and our threads hand their errors over. Messages of JAX about its devices stay. Call
    it before JAX is imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # only what aborts the process
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
    """Silences the TIFF library inside Pillow, which writes past Python to the terminal.

    It changes nothing on a system that does not find the library's functions beside Pillow's.
    """
    from PIL import _imaging

    pillow = ctypes.CDLL(_imaging.__file__)
    for setter in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if hasattr(pillow, setter):
            getattr(pillow, setter)(None)


def quiet_compiled_code() -> None:
    """Discards the output of compiled libraries. Python's own output stays.

    It is for one of several processes: when another one ends, these libraries print their stacks.
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

    Call it before JAX is imported. JAX names the entries by program, flags, devices and versions.
    """
    folder = DataConfig().cache_directory / f"programs-{_processor_digest()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def _processor_digest() -> str:
    """A digest of the instruction sets: machines of several generations may share a home folder."""
    return hashlib.sha256(f"{platform.machine()} {instruction_sets()}".encode()).hexdigest()[:12]


def instruction_sets() -> str:
    """The instruction sets of this processor, as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    listed = [line for line in lines if line.startswith(("flags", "Features"))]  # on x86, and on ARM
    return listed[0] if listed else platform.processor()
