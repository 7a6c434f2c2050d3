"""Eight virtual CPU devices, no silent rank promotion, signals as a terminal leaves them."""

import os
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# The same small networks are compiled by many tests, and by the commands that they start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from daad_jax.runtime import startup  # imports no JAX

startup.compile_quickly(trains=True)

import jax  # noqa: E402

from tests.emulator import emulator  # noqa: E402, F401

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell's background job ignores Ctrl-C, and the commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
