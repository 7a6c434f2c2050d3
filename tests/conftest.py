"""Eight virtual CPU devices, no silent rank promotion, signals as a terminal leaves them; shared images."""

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
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from tests.chromium import browser  # noqa: E402, F401
from tests.emulator import emulator  # noqa: E402, F401

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell's background job ignores Ctrl-C, and the commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def striped_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of images of 32 x 32: stripes are normal, stripes with a blot are not."""
    root, rng = tmp_path_factory.mktemp("striped") / "set", np.random.default_rng(0)
    for part, count in (("train/good", 20), ("test/good", 6), ("test/<b>blot", 6)):
        folder = root / part
        folder.mkdir(parents=True)
        for number in range(count):
            image = np.tile(np.arange(32, dtype=np.uint8) % 8 * 20, (32, 1))
            image = np.stack([image] * 3, -1) + rng.integers(0, 20, (32, 32, 3)).astype(np.uint8)
            if "blot" in part:
                image[8:20, 8:20] = 255
            Image.fromarray(image).save(folder / f"{number}.png")
    return root
