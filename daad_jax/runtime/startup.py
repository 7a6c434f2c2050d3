"""What programs take to trace and compile: less than by default, and once, since they are kept between runs.

To be called before JAX is used.
"""

import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from daad_jax.config import DataConfig

# LLVM need not unroll XLA:CPU's loops, which are vectors already. For all programs, since one cannot be
# given these options.
QUICK = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
# Nor, for train.py, search for cheaper ways to count in them (loop strength reduction): a step takes as long
# without. Scoring small images takes a tenth longer, and that is what the other commands' time goes into.
QUICK_STEP = f"{QUICK},-disable-lsr"
# LLVM ends a process whose options it does not know: no longer than it was tried.
TRIED_BEFORE = (0, 13)  # jaxlib


def compile_quickly(trains: bool = False) -> None:
    """Leaves out what costs a processor's programs time to compile and gives none back; more for training.

    Only where JAX has no other device, whose compiler these options would reach too.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    others = any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if "xla_backend_extra_options" not in flags and not others and version < TRIED_BEFORE:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK_STEP if trains else QUICK}".strip()


def trace_quickly() -> None:
    """Has Python look for garbage less often: tracing makes many objects, hardly any of them garbage."""
    gc.set_threshold(50_000)


def enable_compilation_cache() -> None:
    """Has JAX keep them beside the decoded images, unless the environment says where or whether.

    Before JAX is imported. JAX itself keys them by program, flags, devices and versions.
    """
    folder = DataConfig().cache_directory / f"programs-{_processor()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def _processor() -> str:
    """What this processor can do: a home folder may be shared by machines of several generations."""
    return hashlib.sha256(f"{platform.machine()} {abilities()}".encode()).hexdigest()[:12]


def abilities() -> str:
    """The instruction sets of this processor, as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    # "flags" on x86, "Features" on ARM.
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
