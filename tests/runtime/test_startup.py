"""What programs take to compile: the flag is given once, is known to XLA, and leaves the user's own alone."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest

from daad_jax.runtime import startup


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("trains", "flag"), [(False, startup.FAST_COMPILATION), (True, startup.FAST_COMPILATION_OF_STEP)]
)
@pytest.mark.parametrize("before", ["", "--xla_force_host_platform_device_count=2"])
def test_the_flag_comes_beside_others_and_once(monkeypatch, before, trains, flag):
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        startup.compile_quickly(trains)
    assert os.environ["XLA_FLAGS"].split() == [*before.split(), flag]


def test_extra_options_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_extra_options=a=b")
    startup.compile_quickly()
    assert os.environ["XLA_FLAGS"] == "--xla_backend_extra_options=a=b"


@pytest.mark.parametrize("plugin", ["libtpu", "jax_plugins"])
def test_not_where_another_compiler_would_hear_it(monkeypatch, plugin):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin)
    startup.compile_quickly()
    assert not os.environ["XLA_FLAGS"]


@pytest.mark.parametrize(
    ("version", "given"), [("0.8.3", True), ("0.12.0.1", True), ("0.13.0", False), ("1.0", False)]
)
def test_not_to_a_compiler_that_may_not_know_it(monkeypatch, version, given):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    startup.compile_quickly()
    assert os.environ["XLA_FLAGS"] == (startup.FAST_COMPILATION if given else "")


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("0.0.42.1", "", "--xla_tpu_scoped_vmem_limit_kib=6144"),
        ("0.0.42.1", "--xla_a=1", "--xla_a=1 --xla_tpu_scoped_vmem_limit_kib=6144"),
        ("0.0.42.1", "--xla_tpu_scoped_vmem_limit_kib=16384", "--xla_tpu_scoped_vmem_limit_kib=16384"),
        ("0.1.0", "", ""),  # may not know the option
        ("nightly", "", ""),
    ],
)
def test_kernels_of_a_tpu_are_limited_unless_the_user_says_otherwise(monkeypatch, version, given, expected):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    for _ in range(2):
        startup.limit_tpu_kernels()
    assert os.environ["LIBTPU_INIT_ARGS"] == expected


def test_nothing_is_said_to_a_libtpu_that_is_not_there(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    startup.limit_tpu_kernels()
    assert "LIBTPU_INIT_ARGS" not in os.environ


@pytest.mark.parametrize("flag", [startup.FAST_COMPILATION, startup.FAST_COMPILATION_OF_STEP])
def test_this_xla_knows_the_flag(flag):
    """It stops a process whose flags it does not know."""
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_the_tiff_library_inside_pillow_is_silent():
    """It writes to the terminal itself, past Python's streams and warnings."""
    program = (
        "import io\n"
        "from PIL import Image\n"
        "from daad_jax.runtime import startup\n"
        "opened = io.BytesIO()\n"
        "Image.new('L', (24, 20), 7).save(opened, 'TIFF', compression='tiff_adobe_deflate')\n"
        "content = bytearray(opened.getvalue())\n"
        "(offset,), (size,) = (Image.open(opened).tag_v2[tag] for tag in (273, 279))\n"
        "content[offset + size - 1] ^= 1  # the checksum of the pixels\n"
        "for quiet in (lambda: None, startup.quiet_libraries):\n"
        "    quiet()\n"
        "    try:\n"
        "        Image.open(io.BytesIO(content)).load()\n"
        "    except OSError:\n"
        "        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]
    assert done.stderr.count("ZIPDecode") == 1
