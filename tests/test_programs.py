"""What programs take to compile: the flag is given once, is known to XLA, and leaves the user's own alone."""

import importlib.util
import os
import subprocess
import sys

import pytest

from daad_jax import programs


@pytest.mark.parametrize("before", ["", "--xla_force_host_platform_device_count=2"])
def test_the_flag_comes_beside_others_and_once(monkeypatch, before):
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        programs.compile_quickly()
    assert os.environ["XLA_FLAGS"].split() == [*before.split(), programs.QUICK]


def test_extra_options_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_extra_options=a=b")
    programs.compile_quickly()
    assert os.environ["XLA_FLAGS"] == "--xla_backend_extra_options=a=b"


def test_not_where_the_compiler_is_a_tpu_s(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    programs.compile_quickly()
    assert not os.environ["XLA_FLAGS"]


def test_this_xla_knows_the_flag():
    """It stops a process whose flags it does not know."""
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    environment = os.environ | {"XLA_FLAGS": programs.QUICK, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr
