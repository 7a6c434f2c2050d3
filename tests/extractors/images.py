"""Images for the tests of extractors."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def waves(height=64, width=48, count=1):
    """Smooth images `[count, height, width, 3]` in [0, 1], the same on every machine."""
    n, y, x, colour = np.meshgrid(*map(np.arange, (count, height, width, 3)), indexing="ij")
    return (0.5 + 0.5 * np.sin(0.13 * y + 0.07 * x * (colour + 1) + colour + n)).astype(np.float32)


def real_or_waves(size):
    """Two bottles if DAAD_MVTEC_DIR says where they lie, else smooth images: `[2, size, size, 3]`."""
    root = os.environ.get("DAAD_MVTEC_DIR")
    if not root:
        return waves(size, size, 2)
    files = sorted((Path(root) / "bottle" / "test").glob("*/*.png"))
    images = [Image.open(file).convert("RGB").resize((size, size)) for file in (files[0], files[-1])]
    return np.stack([np.asarray(image, np.float32) / 255 for image in images])


def assert_maps_close(actual, expected, tolerance=1e-5):
    """Each map `[B, h, w, C]` is equal within `tolerance` of its largest value."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())
