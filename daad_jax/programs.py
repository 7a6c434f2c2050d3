"""What XLA's programs take to compile: less than by its defaults, and once, since they are kept between runs.

To be called before JAX is used.
"""

import hashlib
import importlib.util
import os
import platform
from pathlib import Path

from daad_jax.config import DataConfig

# LLVM need not unroll XLA:CPU's loops, which are vectors already: that takes a sixth of the time to compile a
# step, which is no faster for it. For all programs, since one cannot be given this option.
QUICK = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"


def compile_quickly() -> None:
    """Leaves out what costs a processor's programs time to compile and gives none back.

    Not on a TPU's host, whose compiler is another one.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags and not importlib.util.find_spec("libtpu"):
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK}".strip()


def keep() -> None:
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
