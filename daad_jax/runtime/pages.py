"""Large memory pages: XLA:CPU takes a step's memory anew each time; in small ones that costs a fifth."""

import os
import sys
from pathlib import Path

SETTING = "glibc.malloc.hugetlb=1"
SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large() -> None:
    """Starts this process again, under its number and with its arguments, so that malloc asks for them.

    glibc reads that setting at the start of a process only. Nothing happens where it would have no
    effect, or is there already. To be called before anything that takes long to import.
    """
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in settings or not _have_effect():
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{settings}:{SETTING}".strip(":")}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _have_effect() -> bool:
    """Linux with glibc 2.35 or later, whose kernel gives large pages to who asks."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        allowed = "[never]" not in SYSTEM.read_text(encoding="ascii")
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35) and allowed
    except (AttributeError, OSError, ValueError):
        return False
