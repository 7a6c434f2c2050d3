"""Large memory pages: one restart of the process, under its number, and none where there is no use."""

import os
import subprocess
import sys

import pytest

from daad_jax.runtime import pages

CODE = """
import os, sys
print(os.getpid())
from daad_jax import pages
pages.use_large()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv)
"""


def run(**environment: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", CODE, "an argument"]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not pages._have_effect(), reason="no large pages on this system")
def test_the_process_starts_again_once():
    first, second, last = run()
    assert first == second
    assert last == "glibc.malloc.hugetlb=1 ['-c', 'an argument']"
    assert run(GLIBC_TUNABLES="glibc.malloc.check=0")[2].startswith(
        "glibc.malloc.check=0:glibc.malloc.hugetlb=1 "
    )


def test_a_setting_of_the_user_stays():
    assert len(run(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")) == 2


def test_nothing_happens_where_the_kernel_gives_none(monkeypatch, tmp_path):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    for system in (tmp_path / "enabled", tmp_path / "missing"):
        monkeypatch.setattr(pages, "SYSTEM", system)
        pages.use_large()
