"""What an accelerator keeps, and that devices share it as they share a batch."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from daad_jax.runtime import devices as devices_module


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
    assert (
        devices_module.DeviceGroup([Device(platform, limit) for limit in limits]).fits_resident(100) is held
    )


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("batch_axis", [0, 1])
def test_a_batch_of_resident_images_is_a_batch_that_is_put(devices, batch_axis):
    group = devices_module.choose(devices, 8)
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 1), np.uint8)
    chosen = np.random.default_rng(1).integers(0, 5, (3, 8) if batch_axis else (8,))
    put = group.put_resident(images, lambda images, plan: images[plan["chosen"]], batch_axis)
    kept = put({"chosen": chosen})
    np.testing.assert_array_equal(kept, group.put(images[chosen], batch_axis))
    assert kept.devices() == set(jax.local_devices()[:devices])
