"""Refuses batches that cannot fit the memory, before the computation starts."""

import os
from contextlib import suppress
from pathlib import Path

import jax

from daad_jax.config import Config
from daad_jax.errors import UserError

# These files have the memory limit of a container in bytes, or "max". The first is for control groups of
# version 2, the second for version 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def require_memory(key: str, images: int, config: Config) -> None:
    """Checks that a batch can fit the memory of a device. The batch may still turn out to be too large.

    Args:
        key: the option or key that sets the size, for the message.
        images: the number of images on each device of this process, copies included.
        config: the configuration of the run.

    Raises:
        UserError: one array, the first one that the networks make, is already larger than the memory.
    """
    device = jax.local_devices()[0]
    on_host = device.platform == "cpu"  # all devices then share the host's memory
    together = images * (jax.local_device_count() if on_host else 1)
    # The networks on pixels begin with a map of the image's size in 32-bit floats.
    channels = config.data.channels if config.model.features else config.model.base_width
    bytes_of_image = 4 * max(channels, config.data.channels) * config.data.height * config.data.width
    limit = host_memory() if on_host else (device.memory_stats() or {}).get("bytes_limit", 0)
    if limit and together * bytes_of_image > limit:
        raise UserError(
            f"{key} is too large: {together} images need more than {together * bytes_of_image / 1e9:.0f} GB, "
            f"and there are {limit / 1e9:.0f} GB of memory; give at most "
            f"{max(1, images * limit // (together * bytes_of_image))}"
        )


def host_memory() -> int:
    """Returns the memory of this machine or container in bytes; 0 if the system does not tell."""
    limits = []
    with suppress(AttributeError, OSError, ValueError):  # Windows, or an unknown name
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(file.read_text(encoding="ascii")))
    return min(limits, default=0)
