#!/usr/bin/env bash
# Pillow 13.0.0 reads an uncompressed planar TIFF of 16-bit colour wrongly, without an error.
# The same pixels in the same layout, compressed with Deflate, come out right (as their upper 8 bits).
# Seen: largest difference from v >> 8: 0 (interleaved), 0 (planar, Deflate), 225 (planar, uncompressed).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import io

import numpy as np
import tifffile
from PIL import Image

ramp = np.indices((32, 48)).sum(0)[..., None] * np.array([800, 400, 200])
pixels = ramp.astype(np.uint16)  # at most 62400


def largest_difference(array, planarconfig, compression):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", planarconfig=planarconfig, compression=compression)
    image = Image.open(io.BytesIO(file.getvalue()))
    assert image.mode == "RGB", image.mode
    return int(np.abs(np.asarray(image).astype(int) - (pixels >> 8)).max())


planes = np.moveaxis(pixels, -1, 0)
found = {
    "interleaved": largest_difference(pixels, "contig", None),
    "planar, Deflate": largest_difference(planes, "separate", "zlib"),
    "planar, uncompressed": largest_difference(planes, "separate", None),
}
print(found)
assert found["interleaved"] == found["planar, Deflate"] == 0
assert found["planar, uncompressed"] > 100
END
