"""What an accelerator keeps, and that devices share it as they share a batch."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from daad_jax.runtime import devices as parallel


@dataclass
class Device:
    """What `fits_resident` asks of one."""

    platform: str
    limit: int | None

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


@pytest.mark.parametrize(
    ("platform", "limits", "held"),
    [
        ("gpu", [800], True),
        ("tpu", [800, 800], True),
        ("tpu", [800, 799], False),
        ("gpu", [None], False),  # it does not say
        ("cpu", [800], False),
    ],
)
def test_what_an_accelerator_keeps(platform, limits, held):
    assert parallel.DeviceGroup([Device(platform, limit) for limit in limits]).fits_resident(100) is held


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("several", [False, True])
def test_a_batch_that_is_kept_is_one_that_is_put(devices, several):
    mapped = parallel.choose(devices, 8)
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 1), np.uint8)
    chosen = np.random.default_rng(1).integers(0, 5, (3, 8) if several else (8,))
    put = mapped.put_several if several else mapped.put
    kept = mapped.put_resident(images, lambda images, order: images[order["chosen"]], several)(
        {"chosen": chosen}
    )
    np.testing.assert_array_equal(kept, put(images[chosen]))
    assert kept.devices() == set(jax.local_devices()[:devices])
