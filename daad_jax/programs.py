"""Compiled programs are kept between runs: the second start of the same program takes seconds."""

import hashlib
import os
import platform
from pathlib import Path

from daad_jax.config import DataConfig


def keep() -> None:
    """Has JAX keep them beside the decoded images, unless the environment says where or whether.

    To be called before JAX is imported. JAX itself keys them by program, flags, devices and versions.
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
