"""Large memory pages: our own command restarts once, under its number; everybody else's process goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daad_jax.runtime import startup

SCRIPT = """
import os, sys
print(os.getpid())
from daad_jax.runtime import startup
startup.restart_with_large_pages("command")
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""
ROOT = Path(__file__).parents[2]
needs_large_pages = pytest.mark.skipif(not startup._has_large_pages(), reason="no large pages on this system")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "command.py"
    path.write_text(SCRIPT)
    return path


def run(*arguments, **environment: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    clean |= {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@needs_large_pages
@pytest.mark.parametrize("options", [[], ["-X", "utf8"], ["-O"]])
def test_our_command_starts_again_once(script, options):
    first, second, last = run(*options, script, "an argument")
    assert first == second
    assert last == "glibc.malloc.hugetlb=1 ['an argument']"


@needs_large_pages
def test_other_settings_are_kept(script):
    assert run(script, GLIBC_TUNABLES="glibc.malloc.check=0")[2].startswith(
        "glibc.malloc.check=0:glibc.malloc.hugetlb=1 "
    )


@needs_large_pages
def test_a_module_is_our_command_too(script):
    first, second, last = run("-m", "command", "word", PYTHONPATH=f"{script.parent}:{ROOT}")
    assert first == second
    assert last == "glibc.malloc.hugetlb=1 ['word']"


def test_a_setting_of_the_user_stays(script):
    assert len(run(script, GLIBC_TUNABLES="glibc.malloc.hugetlb=0")) == 2


RUNPY = "import runpy, sys; sys.argv = [sys.argv[1]]; runpy.run_path(sys.argv[0], run_name='__main__')"
THREAD = """
import runpy, sys, threading
worker = threading.Thread(target=runpy.run_path, args=(sys.argv[1],))
worker.start()
worker.join()
"""


def test_a_process_of_somebody_else_goes_on(script, tmp_path):
    """A notebook's %run, a program that runs our script, a profiler, a worker thread."""
    program = tmp_path / "program.py"
    for code in (RUNPY, THREAD):
        assert len(run("-c", code, script)) == 2
        program.write_text(code)
        assert len(run(program, script)) == 2
    assert len(run("-m", "cProfile", "-o", tmp_path / "profile", script)) == 2


def test_nothing_happens_where_the_kernel_gives_none(monkeypatch, tmp_path):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    monkeypatch.setattr(startup, "belongs_to_our_command", lambda module: True)
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    for system in (tmp_path / "enabled", tmp_path / "missing"):
        monkeypatch.setattr(startup, "LARGE_PAGES_OF_THE_KERNEL", system)
        startup.restart_with_large_pages()
