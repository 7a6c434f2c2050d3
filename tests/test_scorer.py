"""How many images are scored at once."""

import pytest

from daad_jax.scorer import images_at_once


@pytest.mark.parametrize(
    ("size", "backend", "count"),
    [
        (32, "cpu", 64), (64, "cpu", 16), (256, "cpu", 8),
        (8, "gpu", 1024), (32, "tpu", 256), (128, "gpu", 16), (1024, "gpu", 8),
    ],
)  # fmt: skip
def test_more_where_images_are_small(size, backend, count):
    assert images_at_once(size * size, backend) == count
